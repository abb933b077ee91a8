//! Laws of the adapter file: one encoding, and no other byte string is accepted.
#![cfg(feature = "std")]

use proptest::prelude::*;
use sha2::{Digest, Sha256};
use tla::format::{
    Adapter, FormatError, Header, ModuleId, Projection, RoleSet, Scalar, Split, Tying, encode,
    encode_to_vec, round_to_scalar,
};

fn example() -> Vec<u8> {
    let v: Vec<f32> = (0..13).map(|i| (i as f32 - 6.0) / 8.0).collect();
    let header = Header { base_digest: [3; 32], factors_digest: [9; 32], ..Header::default() };
    encode_to_vec(&header, &v).unwrap()
}

/// Bytes with a checksum that fits them.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let body = bytes.len() - 32;
    let checksum = Sha256::digest(&bytes[..body]);
    bytes[body..].copy_from_slice(&checksum);
    bytes
}

fn changed(offset: usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = example();
    bytes[offset..offset + new.len()].copy_from_slice(new);
    sealed(bytes)
}

fn scalar() -> impl Strategy<Value = Scalar> {
    prop::sample::select(Scalar::ALL)
}

prop_compose! {
    fn header()(
        (scalar, split, tying) in (scalar(), prop::sample::select(Split::ALL), prop::sample::select(Tying::ALL)),
        unit in any::<bool>(),
        rank in 1u8..=8,
        width in 1u16..=80,
        groups in 1u16..=20,
        roles in 1u16..=0xff,
        seed in any::<u64>(),
        scale in any::<f32>().prop_map(f32::abs).prop_filter("positive", |s| s.is_finite() && *s > 0.0),
        range in prop::option::of((0u16..1000, 20u16..1000)),
        base_digest in any::<[u8; 32]>(),
        factors_digest in any::<[u8; 32]>(),
    ) -> Header {
        let (first_layer, layers) = range.unwrap_or((0, 0));
        // The head alone is one module, and so has one group.
        let groups = if roles == 0x80 { 1 } else { groups };
        Header {
            scalar, split, tying, rank, groups, seed, scale, first_layer, layers, base_digest, factors_digest,
            width: if unit { u16::from(rank) * u16::from(rank) } else { width },
            projection: if unit { Projection::Unit } else { Projection::Seeded },
            roles: RoleSet::from_bits(roles).unwrap(),
        }
    }
}

prop_compose! {
    fn adapter()(header in header())(
        v in prop::collection::vec(-1e4f32..1e4, header.parameters()),
        header in Just(header),
    ) -> (Header, Vec<f32>) {
        (header, v.into_iter().map(|x| round_to_scalar(header.scalar, x)).collect())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decoding_undoes_encoding((header, v) in adapter()) {
        let bytes = encode_to_vec(&header, &v).unwrap();
        prop_assert_eq!(bytes.len(), header.encoded_len());
        let decoded = Adapter::decode(&bytes).unwrap();
        prop_assert_eq!(*decoded.header(), header);
        let groups: Vec<f32> = (0..).map_while(|g| decoded.group(g)).flatten().collect();
        prop_assert_eq!(&groups, &v);
        prop_assert!(decoded.group(usize::from(header.groups)).is_none());
        prop_assert!(decoded.group(0).unwrap().len() == usize::from(header.width));
        prop_assert!(decoded.values().eq(v));
        prop_assert_eq!(&decoded.checksum()[..], &bytes[bytes.len() - 32..]);
        prop_assert_eq!(decoded.bytes(), &bytes);
    }

    #[test]
    fn whatever_is_accepted_encodes_to_the_same_bytes(
        (header, v) in adapter(),
        changes in prop::collection::vec((0usize..1 << 20, any::<u8>()), 0..4),
    ) {
        let mut bytes = encode_to_vec(&header, &v).unwrap();
        let body = bytes.len() - 32;
        for (at, byte) in changes {
            bytes[at % body] = byte;
        }
        let bytes = sealed(bytes);
        if let Ok(adapter) = Adapter::decode(&bytes) {
            let v: Vec<f32> = adapter.values().collect();
            prop_assert_eq!(encode_to_vec(adapter.header(), &v).unwrap(), bytes);
        }
    }

    #[test]
    fn no_bytes_make_decoding_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400), aim in any::<bool>()) {
        if aim && bytes.len() >= 5 {
            bytes[..5].copy_from_slice(&[0x89, b'T', b'L', b'A', 1]);
        }
        let _ = Adapter::decode(&bytes);
    }

    #[test]
    fn rounding_is_to_the_nearest_and_idempotent(scalar in scalar(), x in -6e4f32..6e4) {
        let rounded = round_to_scalar(scalar, x);
        prop_assert_eq!(round_to_scalar(scalar, rounded), rounded);
        let step = match scalar { Scalar::Bf16 => 1.0 / 256.0, Scalar::F16 => 1.0 / 2048.0, Scalar::F32 => 0.0 };
        prop_assert!((rounded - x).abs() <= x.abs() * step + 3e-8);
    }
}

#[test]
fn thirteen_bf16_parameters_take_154_bytes() {
    assert_eq!(example().len(), 154);
    assert!(Adapter::decode(&example()).unwrap().header().is_bound());
}

#[test]
fn the_largest_of_everything_is_accepted_and_one_more_is_not() {
    let refused = |header: Header| header.check().err().map(|error| error.name());
    let large = Header { rank: 64, width: 2048, groups: 2048, ..Header::default() };
    assert_eq!(refused(large), None);
    assert_eq!(refused(Header { rank: 65, ..large }), Some("rank-too-large"));
    assert_eq!(refused(Header { width: 2049, ..large }), Some("too-many-values"));
    let deep = Header { groups: 7 * 9000, width: 1, first_layer: 56535, layers: 9000, ..large };
    assert_eq!(refused(deep), None);
    assert_eq!(refused(Header { groups: 7 * 9000 + 1, ..deep }), Some("too-many-groups"));
    assert_eq!(refused(Header { first_layer: 56536, ..deep }), Some("layers-overflow"));
}

#[test]
fn an_adapter_is_bound_when_it_names_both_its_base_and_its_factors() {
    let bound = |base: u8, factors: u8| {
        let (base_digest, factors_digest) = ([base; 32], [factors; 32]);
        Header { base_digest, factors_digest, ..Header::default() }.is_bound()
    };
    assert_eq!([bound(0, 0), bound(1, 0), bound(0, 1), bound(1, 1)], [false, false, false, true]);
}

#[test]
fn any_changed_bit_is_refused() {
    let bytes = example();
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(Adapter::decode(&bytes).is_err(), "bit {bit}");
    }
}

#[test]
fn every_truncation_and_extension_is_refused() {
    let bytes = example();
    for len in 0..bytes.len() {
        let error = Adapter::decode(&bytes[..len]).unwrap_err();
        assert_eq!(error.name(), if len < 128 { "too-short" } else { "wrong-length" });
    }
    for extra in 1..40 {
        let longer = [&bytes[..], &vec![0; extra]].concat();
        assert_eq!(Adapter::decode(&longer).unwrap_err().name(), "wrong-length");
    }
}

#[test]
fn each_rejection_has_its_name_even_under_a_right_checksum() {
    let cases: &[(&str, usize, &[u8])] = &[
        ("bad-magic", 0, &[0x88]),
        ("bad-magic", 3, b"a"),
        ("unknown-version", 4, &[0]),
        ("unknown-version", 4, &[2]),
        ("unknown-scalar", 5, &[3]),
        ("unknown-split", 6, &[2]),
        ("unknown-tying", 7, &[2]),
        ("rank-zero", 8, &[0]),
        ("rank-too-large", 8, &[65]),
        ("unknown-projection", 9, &[2]),
        ("width-zero", 10, &[0, 0]),
        ("unit-width", 9, &[1, 13, 0]),
        ("groups-zero", 12, &[0, 0]),
        ("no-roles", 14, &[0, 0]),
        ("unknown-roles", 14, &[0x7f, 0x01]),
        ("scale-not-finite", 24, &f32::NAN.to_le_bytes()),
        ("scale-not-finite", 24, &f32::INFINITY.to_le_bytes()),
        ("scale-not-positive", 24, &0f32.to_le_bytes()),
        ("scale-not-positive", 24, &(-0f32).to_le_bytes()),
        ("scale-not-positive", 24, &(-1f32).to_le_bytes()),
        ("first-layer-without-layers", 28, &[1, 0, 0, 0]),
        ("layers-overflow", 28, &[0xff, 0xff, 1, 0]),
        (
            "too-many-groups",
            12,
            &[3, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x3f, 0, 0, 2, 0],
        ),
        ("too-many-values", 10, &[0x01, 0x01, 0xff, 0xff]),
        ("wrong-length", 10, &[14, 0]),
        ("wrong-length", 5, &[2]),
        ("value-not-finite", 96, &[0x80, 0x7f]),
        ("value-not-finite", 120, &[0xc1, 0xff]),
        ("negative-zero", 98, &[0x00, 0x80]),
    ];
    for (name, offset, bytes) in cases {
        let bytes = changed(*offset, bytes);
        let error = Adapter::decode(&bytes).unwrap_err();
        assert_eq!(error.name(), *name, "{error}");
        assert!(error.to_string().contains(". "), "a fact, then a remedy: {error}");
    }
    let mut damaged = example();
    damaged[100] ^= 1;
    assert_eq!(Adapter::decode(&damaged), Err(FormatError::WrongChecksum));
}

#[test]
fn encoding_refuses_what_decoding_would() {
    let header = Header::default();
    let encode_one = |x: f32| encode_to_vec(&header, &[[0.0; 12].as_slice(), &[x]].concat());
    assert_eq!(encode_one(f32::NAN), Err(FormatError::ValueNotFinite { index: 12 }));
    assert_eq!(encode_one(1.001).unwrap_err().name(), "value-not-representable");
    assert_eq!(encode_one(f32::MAX).unwrap_err().name(), "value-not-representable");
    assert_eq!(encode_one(-0.0), encode_one(0.0));
    assert_eq!(encode_to_vec(&header, &[0.0; 12]).unwrap_err().name(), "wrong-value-count");
    let small = encode(&header, &[0.0; 13], &mut [0; 153]);
    assert_eq!(small, Err(FormatError::BufferTooSmall { needed: 154, len: 153 }));
    let bad = Header { rank: 0, ..header };
    assert_eq!(encode_to_vec(&bad, &[0.0; 13]), Err(FormatError::RankZero));
}

#[test]
fn the_head_lies_beyond_every_layer_a_header_can_name() {
    let header = Header {
        roles: RoleSet::from_bits(0xff).unwrap(),
        first_layer: 65534,
        layers: 1,
        ..Header::default()
    };
    assert_eq!(header.check(), Ok(()));
    assert!(header.selects(ModuleId::LM_HEAD));
    let header = Header { layers: 2, ..header };
    assert_eq!(header.check().unwrap_err().name(), "layers-overflow");
}
