//! Parquet, as the Hugging Face hub ships datasets: a column a field.

use std::{
    fs::File,
    io::Read,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use parquet::{
    errors::ParquetError,
    file::{reader::FileReader, serialized_reader::SerializedFileReader},
    record::Field,
};
use prost::bytes::Bytes;
use serde_json::{Map, Number, Value};

use super::{
    DataError, Dataset, Fields, MAX_FILE, MAX_LINE, Problem, RowError, hashed::Hashed, problem,
};

/// The most bytes the columns may claim to unpack to.
const MAX_UNPACKED: i64 = 1 << 31;
/// The deepest nesting of a value that is followed.
const MAX_DEPTH: usize = 16;

/// Reads a file, as a whole because its reader goes back and forth in it.
pub fn read(path: &Path, fields: &Fields) -> Result<Dataset, DataError> {
    let io = |source| DataError::Io { path: path.to_path_buf(), source };
    let mut reader = Hashed::new(File::open(path).map_err(io)?);
    let mut bytes = Vec::new();
    (&mut reader).take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(DataError::FileTooLarge { path: path.to_path_buf(), limit: MAX_FILE });
    }
    let not = |reason: String| DataError::NotParquet { path: path.to_path_buf(), reason };
    // The reader gives up on some damaged files by panicking.
    let problems = catch_unwind(AssertUnwindSafe(|| rows(bytes.into(), path, fields)))
        .unwrap_or_else(|_| Err(not("its reader gave up".to_owned())))?;
    Ok(Dataset { problems, digest: reader.digest() })
}

fn rows(file: Bytes, path: &Path, fields: &Fields) -> Result<Vec<Problem>, DataError> {
    let path = || path.to_path_buf();
    let not =
        |error: ParquetError| DataError::NotParquet { path: path(), reason: error.to_string() };
    let reader = SerializedFileReader::new(file).map_err(not)?;
    let claimed = reader.metadata().row_groups().iter();
    let unpacked = claimed.fold(0i64, |sum, group| sum.saturating_add(group.total_byte_size()));
    if !(0..=MAX_UNPACKED).contains(&unpacked) {
        return Err(DataError::FileTooLarge { path: path(), limit: MAX_UNPACKED as u64 });
    }
    let mut problems = Vec::new();
    for (row, found) in (1..).zip(reader.get_row_iter(None).map_err(not)?) {
        let columns = found.map_err(not)?.into_columns();
        let read = object(&columns, MAX_DEPTH).and_then(|object| problem(object, fields, row));
        match read {
            Ok(problem) => problems.push(problem),
            Err(problem) => return Err(DataError::Row { path: path(), row, problem }),
        }
    }
    if problems.is_empty() {
        return Err(DataError::Empty { path: path() });
    }
    Ok(problems)
}

fn object(columns: &[(String, Field)], depth: usize) -> Result<Map<String, Value>, RowError> {
    let entry = |(name, field): &(String, Field)| Ok((name.clone(), value(name, field, depth)?));
    columns.iter().map(entry).collect()
}

/// A field as JSON; what has no form of its own there is text, and no number is null.
fn value(name: &str, field: &Field, depth: usize) -> Result<Value, RowError> {
    let refused =
        |found: &str| RowError::NotAValue { field: name.to_owned(), found: found.to_owned() };
    let depth = depth.checked_sub(1).ok_or_else(|| refused("values nested too deeply"))?;
    let float = |x: f64| Number::from_f64(x).map_or(Value::Null, Value::Number);
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(truth) => Value::Bool(*truth),
        Field::Byte(n) => (*n).into(),
        Field::Short(n) => (*n).into(),
        Field::Int(n) => (*n).into(),
        Field::Long(n) => (*n).into(),
        Field::UByte(n) => (*n).into(),
        Field::UShort(n) => (*n).into(),
        Field::UInt(n) => (*n).into(),
        Field::ULong(n) => (*n).into(),
        Field::Float16(x) => float(f64::from(*x)),
        Field::Float(x) => float(f64::from(*x)),
        Field::Double(x) => float(*x),
        Field::Str(text) if text.len() > MAX_LINE => {
            return Err(RowError::TooLong { limit: MAX_LINE });
        }
        Field::Str(text) => Value::String(text.clone()),
        Field::Bytes(_) => return Err(refused("bytes that are no text")),
        Field::Group(row) => {
            let columns: Vec<_> =
                row.get_column_iter().map(|(n, f)| (n.clone(), f.clone())).collect();
            Value::Object(object(&columns, depth)?)
        }
        Field::ListInternal(list) => {
            let items = list.elements().iter().map(|item| value(name, item, depth));
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        Field::MapInternal(map) => {
            let entry = |(key, item): &(Field, Field)| {
                let key = match key {
                    Field::Str(key) => key.clone(),
                    other => other.to_string(),
                };
                Ok((key, value(name, item, depth)?))
            };
            Value::Object(map.entries().iter().map(entry).collect::<Result<_, _>>()?)
        }
        // Decimals, dates and times.
        other => Value::String(other.to_string()),
    })
}
