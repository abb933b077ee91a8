//! An adapter's values as ONNX Runtime's own adapters are stored, for a grafted model.
//!
//! The format is a FlatBuffer of `adapter_schema.fbs` in ONNX Runtime, format version 1:
//! `Adapter {format_version, adapter_version, model_version: int, parameters: [Parameter]}` and
//! `Parameter {name: string, dims: [int64], data_type: int, raw_data: [uint8] (aligned to 8)}`.

use crate::model::ElementType;
use flatbuffers::{FlatBufferBuilder, TableFinishedWIPOffset, Vector, WIPOffset};

/// What the file holds at its bytes 4 to 8.
const IDENTIFIER: &str = "TORT";
const FORMAT_VERSION: i32 = 1;

/// The place of a table's field in its list of offsets.
const fn field(number: u16) -> u16 {
    4 + 2 * number
}

/// An `.onnx_adapter` file with one parameter: the f32 tensor `name` of shape [1, values].
pub fn onnx_adapter(name: &str, values: &[f32]) -> Vec<u8> {
    let mut file = FlatBufferBuilder::new();
    let data = aligned_bytes(&mut file, values);
    let dims = file.create_vector(&[1i64, values.len() as i64]);
    let name = file.create_string(name);
    let parameter = file.start_table();
    file.push_slot_always(field(0), name);
    file.push_slot_always(field(1), dims);
    file.push_slot(field(2), ElementType::F32.number(), 0);
    file.push_slot_always(field(3), data);
    let parameter: WIPOffset<TableFinishedWIPOffset> = file.end_table(parameter);
    let parameters = file.create_vector(&[parameter]);
    let adapter = file.start_table();
    file.push_slot(field(0), FORMAT_VERSION, 0);
    file.push_slot(field(1), 1, 0);
    file.push_slot(field(2), 1, 0);
    file.push_slot_always(field(3), parameters);
    let adapter = file.end_table(adapter);
    file.finish(adapter, Some(IDENTIFIER));
    file.finished_data().to_vec()
}

/// The bytes of the values. A vector is aligned by its elements: pushed as u64 and counted as bytes
/// it is aligned to 8.
fn aligned_bytes<'a>(
    file: &mut FlatBufferBuilder<'a>,
    values: &[f32],
) -> WIPOffset<Vector<'a, u8>> {
    let words: Vec<u64> = values
        .chunks(2)
        .map(|pair| {
            let bits = |i: usize| pair.get(i).map_or(0, |x| u64::from(x.to_bits()));
            bits(0) | bits(1) << 32
        })
        .collect();
    file.start_vector::<u64>(words.len());
    // A FlatBuffer is built from its end.
    for &word in words.iter().rev() {
        file.push(word);
    }
    file.end_vector::<u8>(size_of_val(values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_names_its_format_and_holds_name_and_values_aligned_to_eight_bytes() {
        for count in [1, 2, 13] {
            let values: Vec<f32> = (0..count).map(|i| i as f32 - 0.5).collect();
            let file = onnx_adapter("tla_v", &values);
            assert_eq!(&file[4..8], b"TORT");
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            let at = file.windows(bytes.len()).position(|w| w == bytes).unwrap();
            assert_eq!(at % 8, 0);
            assert_eq!(file[at - 4..at], (bytes.len() as u32).to_le_bytes());
            assert!(file.windows(5).any(|w| w == b"tla_v"));
        }
    }
}
