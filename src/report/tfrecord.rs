//! TFRecord framing: what TensorBoard's files are made of.
//!
//! A record is its length (u64), the masked CRC-32C of these eight bytes, the data, and the masked
//! CRC-32C of the data, all little-endian (TensorFlow, `core/lib/io/record_writer.h`).

use crc::{CRC_32_ISCSI, Crc};

/// CRC-32C, the Castagnoli polynomial, as in iSCSI.
const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
/// What TensorFlow adds to a rotated sum, so that sums of data that holds sums stay sound.
const MASK: u32 = 0xa282_ead8;

/// The bytes of one record.
pub fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut bytes = Vec::with_capacity(data.len() + 16);
    bytes.extend(length);
    bytes.extend(masked(&length).to_le_bytes());
    bytes.extend(data);
    bytes.extend(masked(data).to_le_bytes());
    bytes
}

fn masked(data: &[u8]) -> u32 {
    CRC32C.checksum(data).rotate_right(15).wrapping_add(MASK)
}

/// The whole records of a file, and whether a last one was cut short.
///
/// # Panics
/// If a sum is wrong: only tests read these files.
#[cfg(test)]
pub fn records(mut bytes: &[u8]) -> (Vec<&[u8]>, bool) {
    let mut found = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<8>() {
        let Some((sum, rest)) = rest.split_first_chunk::<4>() else { return (found, true) };
        assert_eq!(u32::from_le_bytes(*sum), masked(length), "sum of the length");
        let Some((data, rest)) = rest.split_at_checked(u64::from_le_bytes(*length) as usize) else {
            return (found, true);
        };
        let Some((sum, rest)) = rest.split_first_chunk::<4>() else { return (found, true) };
        assert_eq!(u32::from_le_bytes(*sum), masked(data), "sum of the data");
        found.push(data);
        bytes = rest;
    }
    (found, !bytes.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_published_vectors() {
        // RFC 3720, appendix B.4.
        assert_eq!(CRC32C.checksum(&[0; 32]), 0x8a91_36aa);
        assert_eq!(CRC32C.checksum(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(CRC32C.checksum(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_record_is_framed_as_tensorflow_frames_it() {
        // The first record of a file by tensorboard's own writer: wall time 0, `brain.Event:2`.
        let event = b"\x09\0\0\0\0\0\0\0\0\x1a\x0dbrain.Event:2";
        let bytes = record(event);
        assert_eq!(bytes[..8], 24u64.to_le_bytes());
        assert_eq!(records(&bytes), (vec![&event[..]], false));
        assert_eq!(bytes[8..12], [0xa3, 0x7f, 0x4b, 0x22], "the masked sum of 24 as a u64");
    }

    #[test]
    fn a_record_cut_anywhere_is_no_record() {
        let first = record(b"one");
        let both = [first.clone(), record(b"")].concat();
        for cut in first.len()..both.len() {
            assert_eq!(records(&both[..cut]), (vec![&b"one"[..]], cut > first.len()), "{cut}");
        }
        assert_eq!(records(&both), (vec![&b"one"[..], b""], false));
    }
}
