//! Single fields of a protobuf message: made, and told apart.

pub(super) const VARINT: u8 = 0;
pub(super) const FIXED64: u8 = 1;
pub(super) const DELIMITED: u8 = 2;
pub(super) const FIXED32: u8 = 5;

pub(super) fn push_key(number: u32, wire: u8, out: &mut Vec<u8>) {
    push_varint(u64::from(number) << 3 | u64::from(wire), out);
}

pub(super) fn push_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends the key and the length of a field.
pub(super) fn head(number: u32, length: u64, out: &mut Vec<u8>) {
    push_key(number, DELIMITED, out);
    push_varint(length, out);
}

/// Appends a field of stated length.
pub(super) fn delimit(number: u32, body: &[u8], out: &mut Vec<u8>) {
    head(number, body.len() as u64, out);
    out.extend_from_slice(body);
}

/// Appends a field that is a number.
pub(super) fn number(number: u32, value: i64, out: &mut Vec<u8>) {
    push_key(number, VARINT, out);
    push_varint(value as u64, out);
}

/// The fields of a tensor with other numbers than `without`, one after the other.
pub(super) fn without(tensor: &[u8], without: &[u32]) -> Vec<u8> {
    let mut left = Vec::new();
    let mut rest = tensor;
    while !rest.is_empty() {
        let (number, length) = field_at(rest).unwrap_or((0, rest.len()));
        let (field, behind) = rest.split_at(length);
        if !without.contains(&number) {
            left.extend_from_slice(field);
        }
        rest = behind;
    }
    left
}

/// The contents of a field of the encoder: behind the key and, if it has one, the length.
pub(super) fn body_of(field: &[u8]) -> &[u8] {
    let varint = |bytes: &[u8]| bytes.iter().take_while(|byte| **byte >= 0x80).count() + 1;
    let key = varint(field).min(field.len());
    let wire = field.first().map_or(VARINT, |byte| byte & 7);
    let head = if wire == DELIMITED { key + varint(&field[key..]) } else { key };
    &field[head.min(field.len())..]
}

/// Number and length of the first field, of those that [`scan`](super::wire::scan) lets through.
fn field_at(bytes: &[u8]) -> Option<(u32, usize)> {
    let varint = |from: usize| -> Option<(u64, usize)> {
        let ten = bytes.get(from..)?.iter().take(10);
        let length = ten.take_while(|byte| **byte >= 0x80).count() + 1;
        let digits = bytes.get(from..from + length)?.iter().enumerate();
        let value = digits.fold(0u64, |value, (i, b)| {
            value | u64::from(b & 0x7f).checked_shl(7 * i as u32).unwrap_or(0)
        });
        Some((value, from + length))
    };
    let (key, start) = varint(0)?;
    let end = match (key & 7) as u8 {
        VARINT => varint(start)?.1,
        FIXED64 => start + 8,
        FIXED32 => start + 4,
        _ => {
            let (length, body) = varint(start)?;
            body.checked_add(usize::try_from(length).ok()?)?
        }
    };
    let number = u32::try_from(key >> 3).ok()?;
    (end <= bytes.len()).then_some((number, end))
}
