//! The codec accepts and refuses exactly what the spec says, and keeps every bit.

use super::{Outcome, spec};
use arbitrary::{Result, Unstructured};
use sha2::{Digest, Sha256};
use tla::format::{
    Adapter, FormatError, Header, Projection, RoleSet, Scalar, Split, Tying, encode, encode_to_vec,
    round_to_scalar,
};

/// Bytes as they are; then with the length their header asks for, if small, and a checksum that
/// fits, because no mutation finds one.
pub fn decode(bytes: &[u8]) -> Vec<Outcome> {
    let fitted = fitted(bytes);
    [Some(bytes), fitted.as_deref()].into_iter().flatten().map(decode_exactly).collect()
}

fn decode_exactly(bytes: &[u8]) -> Outcome {
    let expected = spec::file(bytes);
    let adapter = match Adapter::decode(bytes) {
        Ok(adapter) => adapter,
        Err(error) => {
            assert_eq!(Some(error.name()), expected, "{error}");
            assert!(error.to_string().contains(". "), "a fact, then a remedy: {error}");
            return error.name().into();
        }
    };
    assert_eq!(expected, None);
    let header = *adapter.header();
    let values: Vec<f32> = adapter.values().collect();
    assert_eq!(header.check(), Ok(()));
    assert_eq!(header.encoded_len(), bytes.len());
    assert_eq!(values.len(), header.parameters());
    for &value in &values {
        assert!(value.is_finite() && value.to_bits() != (-0f32).to_bits());
        assert_eq!(round_to_scalar(header.scalar, value).to_bits(), value.to_bits());
    }
    let grouped = (0..usize::from(header.groups)).flat_map(|g| adapter.group(g).unwrap());
    assert!(grouped.eq(values.iter().copied()));
    assert!(adapter.group(usize::from(header.groups)).is_none());
    assert_eq!(adapter.bytes(), bytes);
    assert_eq!(adapter.checksum()[..], bytes[bytes.len() - 32..]);
    assert_eq!(encode_to_vec(&header, &values).unwrap(), bytes);
    "accepted".into()
}

fn fitted(bytes: &[u8]) -> Option<Vec<u8>> {
    const LARGEST: u64 = 1 << 10;
    let (size, count) = spec::values(bytes.get(..96)?);
    let length = 96 + usize::try_from(size * count).ok().filter(|_| count <= LARGEST)?;
    let mut file = bytes.to_vec();
    file.resize(length, 0);
    file.extend_from_slice(&Sha256::digest(&file));
    Some(file)
}

/// A header, values and an output, valid or not.
struct Call {
    header: Header,
    values: Vec<f32>,
    room: usize,
    /// The header's 96 bytes, laid out by hand.
    bytes: [u8; 96],
}

/// Any header and any values are written and read back, or refused for what is wrong with them.
pub fn encoding(data: &[u8]) -> Vec<Outcome> {
    vec![match call(&mut Unstructured::new(data)) {
        Ok(Ok(call)) => encode_exactly(&call),
        Ok(Err(refused)) => refused.name().into(),
        Err(_) => "no call".into(),
    }]
}

fn encode_exactly(call: &Call) -> Outcome {
    let Call { header, values, room, bytes } = call;
    const UNTOUCHED: u8 = 0xa5;
    let mut out = vec![UNTOUCHED; *room];
    let expected = refusal(call);
    let len = match encode(header, values, &mut out) {
        Ok(len) => len,
        Err(error) => {
            assert_eq!(Some(error.name()), expected, "{error}");
            assert!(error.to_string().contains(". "), "a fact, then a remedy: {error}");
            return error.name().into();
        }
    };
    assert_eq!(expected, None);
    assert_eq!(len, header.encoded_len());
    assert_eq!(out[..96], bytes[..]);
    assert!(out[len..].iter().all(|&byte| byte == UNTOUCHED));
    assert_eq!(spec::file(&out[..len]), None);
    let adapter = Adapter::decode(&out[..len]).unwrap();
    assert_eq!(adapter.header(), header);
    // −0 is written as +0.
    let written = adapter.values().map(f32::to_bits);
    assert!(written.eq(values.iter().map(|value| (value + 0.0).to_bits())));
    assert_eq!(encode_to_vec(header, values).unwrap(), out[..len]);
    "accepted".into()
}

/// What the spec says a writer must refuse, in its order.
fn refusal(call: &Call) -> Option<&'static str> {
    let Call { header, values, room, bytes } = call;
    let (size, count) = spec::values(bytes);
    let representable = |x: f32| match header.scalar {
        Scalar::Bf16 => half::bf16::from_f32(x).to_f32() == x,
        Scalar::F16 => half::f16::from_f32(x).to_f32() == x,
        Scalar::F32 => true,
    };
    let wrong = |&x: &f32| match (x.is_finite(), representable(x)) {
        (false, _) => Some("value-not-finite"),
        (true, false) => Some("value-not-representable"),
        (true, true) => None,
    };
    spec::header(bytes)
        .or_else(|| (values.len() as u64 != count).then_some("wrong-value-count"))
        .or_else(|| ((*room as u64) < 128 + size * count).then_some("buffer-too-small"))
        .or_else(|| values.iter().find_map(wrong))
}

fn call(u: &mut Unstructured) -> Result<Result<Call, FormatError>> {
    let (scalar, split) = (*u.choose(Scalar::ALL)?, *u.choose(Split::ALL)?);
    let (tying, projection) = (*u.choose(Tying::ALL)?, *u.choose(Projection::ALL)?);
    // Numbers of any size, but small ones often, or few headers would be valid.
    let rank = if u.ratio(7, 8)? { u.int_in_range(1..=8)? } else { u.arbitrary()? };
    let square = u16::from(rank) * u16::from(rank);
    let width = match projection == Projection::Unit && u.ratio(7, 8)? {
        true => square,
        false if u.ratio(7, 8)? => u.int_in_range(0..=40)?,
        false => u.arbitrary()?,
    };
    let groups = if u.ratio(7, 8)? { u.int_in_range(0..=9)? } else { u.arbitrary()? };
    let bits: u16 = if u.ratio(7, 8)? { u16::from(u.arbitrary::<u8>()?) } else { u.arbitrary()? };
    let (seed, scale) = (u.arbitrary()?, f32::from_bits(u.arbitrary()?));
    let (first_layer, layers) = (u.arbitrary()?, u.arbitrary()?);
    let (base_digest, factors_digest) = ([u.arbitrary()?; 32], [u.arbitrary()?; 32]);

    let mut bytes = [0; 96];
    bytes[..4].copy_from_slice(&[0x89, 0x54, 0x4c, 0x41]);
    bytes[4..10].copy_from_slice(&[
        1,
        scalar.code(),
        split.code(),
        tying.code(),
        rank,
        projection.code(),
    ]);
    for (at, number) in [(10, width), (12, groups), (14, bits), (28, first_layer), (30, layers)] {
        bytes[at..at + 2].copy_from_slice(&number.to_le_bytes());
    }
    bytes[16..24].copy_from_slice(&u64::to_le_bytes(seed));
    bytes[24..28].copy_from_slice(&scale.to_le_bytes());
    bytes[32..64].copy_from_slice(&base_digest);
    bytes[64..].copy_from_slice(&factors_digest);

    let roles = match RoleSet::from_bits(bits) {
        Ok(roles) => roles,
        Err(error) => {
            assert_eq!(Some(error.name()), spec::header(&bytes));
            return Ok(Err(error));
        }
    };
    let header = Header {
        scalar,
        split,
        tying,
        rank,
        projection,
        width,
        groups,
        roles,
        seed,
        scale,
        first_layer,
        layers,
        base_digest,
        factors_digest,
    };
    let (size, count) = spec::values(&bytes);
    let most = u.int_in_range(0..=4096u64)?;
    let count = if u.ratio(7, 8)? { count.min(4096) } else { most };
    let room = 128 + size * count;
    let room =
        if u.ratio(7, 8)? { room + u.int_in_range(0..=3)? } else { u.int_in_range(0..=room)? };
    let rounded: bool = u.arbitrary()?;
    let mut values = Vec::new();
    for _ in 0..count {
        let value = f32::from_bits(u.arbitrary()?);
        values.push(match (rounded, scalar) {
            (true, Scalar::Bf16) => half::bf16::from_f32(value).to_f32(),
            (true, Scalar::F16) => half::f16::from_f32(value).to_f32(),
            _ => value,
        });
    }
    Ok(Ok(Call { header, values, room: room as usize, bytes }))
}
