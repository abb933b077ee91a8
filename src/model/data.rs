//! The data files of a changed model: copied with the changed ranges replaced and new ones behind
//! their end, renamed within their folder, or left alone.

use super::{
    Contents, ModelError, OnnxModel, Staged,
    data_names::DataNames,
    dtypes, external,
    proto::ModelProto,
    write::{self, refuse_overwriting},
};
use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File},
    io::{self, Read},
    path::{Component, Path, PathBuf},
};

/// A changed stretch of a data file.
#[derive(Debug)]
struct Range {
    start: u64,
    length: u64,
    name: String,
}

/// A data file to be written.
#[derive(Debug)]
struct DataFile {
    source: PathBuf,
    size: u64,
    /// Its place, relative to the output's folder.
    location: PathBuf,
    /// Sorted, without overlap; those that are new lie behind the old end.
    ranges: Vec<Range>,
}

/// Where the bytes of a tensor that is new in a data file start: pages, as the specification of ONNX
/// asks for, so that they can be mapped into memory.
const PAGE: u64 = 4096;

/// The data files that a model needs in another place.
#[derive(Debug, Default)]
pub(super) struct DataFiles {
    files: Vec<DataFile>,
    held: HashSet<String>,
}

impl DataFiles {
    /// The data files of `proto`, which was made from `base` and goes to `out` in the folder
    /// `out_folder`. In `proto` the locations become those of the output.
    pub fn plan<C: Contents>(
        base: &OnnxModel,
        proto: &mut ModelProto,
        out: &Path,
        out_folder: &Path,
        contents: &C,
    ) -> Result<Self, ModelError> {
        let io = |e| ModelError::io("read", base.folder(), e);
        let stays = fs::canonicalize(base.folder()).map_err(io)? == out_folder;
        let graph = proto.graph.get_or_insert_default();
        let mut uses = BTreeMap::<PathBuf, Vec<Use>>::new();
        // What needs a place of its own, and the data file in which it gets one.
        let mut new = Vec::new();
        for tensor in graph.initializer.iter().filter(|t| external::is_promised(t)) {
            let original = contents.copied_from(tensor.name()).and_then(|o| base.initializer(o));
            let original = original.filter(|original| external::is_beside(original));
            new.extend(original.map(|o| (tensor.name().to_owned(), plain(external::location(o)))));
        }
        for tensor in graph.initializer.iter().filter(|t| external::is_beside(t)) {
            let region = external::locate(&base.path, tensor)?;
            let (start, length) = (region.offset, region.length);
            let location = plain(external::location(tensor));
            let changed = contents.changes(tensor.name());
            let range = Range { start, length, name: tensor.name().into() };
            uses.entry(region.path).or_default().push(Use { location, changed, range });
        }
        let mut files = BTreeMap::<PathBuf, DataFile>::new();
        let mut held = HashSet::new();
        for (source, mut uses) in uses {
            let meta = fs::metadata(&source).map_err(|e| ModelError::io("read", &source, e))?;
            uses.sort_by_key(|u| (u.range.start, u.range.length));
            let alone = alone(&uses);
            for (Use { location, changed, range }, alone) in uses.into_iter().zip(alone) {
                let (source, size) = (source.clone(), meta.len());
                let file = files.entry(location.clone()).or_insert_with(|| DataFile {
                    source,
                    size,
                    location,
                    ranges: Vec::new(),
                });
                match (changed, alone) {
                    (true, true) => {
                        held.insert(range.name.clone());
                        file.ranges.push(range);
                    }
                    // Others read the same bytes, so it gets its own.
                    (true, false) => new.push((range.name, file.location.clone())),
                    (false, _) => {}
                }
            }
        }
        for (name, location) in new {
            let (Some(file), Some(tensor)) =
                (files.get_mut(&location), graph.initializer.iter_mut().find(|t| t.name() == name))
            else {
                continue;
            };
            let Some(length) = dtypes::expected_bytes(tensor)? else { continue };
            let start = file.end().checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
            external::put(tensor, &slashed(&location), start, length);
            held.insert(name.clone());
            file.ranges.push(Range { start, length, name });
        }
        if stays {
            files.retain(|_, file| !file.ranges.is_empty());
        }
        let constant = base.constant_beside().filter(|_| !files.is_empty());
        if let Some(constant) = constant.filter(|_| stays) {
            let name = constant.name().into();
            return Err(ModelError::ExternalConstant { name });
        }
        let mut names = DataNames::new(&base.path, out, out_folder);
        let mut moved = BTreeMap::new();
        for (location, file) in &mut files {
            file.location = match (!stays).then(|| names.same(location)).flatten() {
                Some(same) => same,
                // The constant would not follow.
                None if constant.is_some() => names.give(location.clone()),
                None => names.of_output(location),
            };
            moved.insert(location.clone(), file.location.clone());
        }
        for tensor in graph.initializer.iter_mut().filter(|t| external::is_beside(t)) {
            let location = plain(external::location(tensor));
            if let Some(moved) = moved.get(&location) {
                external::relocate(tensor, &slashed(moved));
            }
        }
        let files = Self { files: files.into_values().collect(), held };
        files.check(base, out, out_folder, &names)?;
        Ok(files)
    }

    /// Whether the contents of this initializer lie in a data file.
    pub fn holds(&self, name: &str) -> bool {
        self.held.contains(name)
    }

    fn check(
        &self,
        base: &OnnxModel,
        out: &Path,
        out_folder: &Path,
        names: &DataNames,
    ) -> Result<(), ModelError> {
        for file in &self.files {
            let place = out_folder.join(&file.location);
            if out.file_name().is_some_and(|name| out_folder.join(name) == place) {
                return Err(ModelError::OnePlace { path: place });
            }
            let Ok(meta) = fs::metadata(&place) else { continue };
            if !meta.is_file() {
                return Err(ModelError::NotAFile { path: place });
            }
            refuse_overwriting(&place, base)?;
            if meta.permissions().readonly() {
                let denied = io::Error::from(io::ErrorKind::PermissionDenied);
                return Err(ModelError::io("write", &place, denied));
            }
            if !names.is_replaced(&place) {
                return Err(ModelError::DataTaken { path: place });
            }
        }
        Ok(())
    }

    /// Writes them beside their places in the folder `out_folder`.
    pub fn stage<C: Contents>(
        &self,
        staged: &mut Staged,
        out_folder: &Path,
        base: &OnnxModel,
        contents: &mut C,
    ) -> Result<(), C::Error> {
        for file in &self.files {
            let place = out_folder.join(&file.location);
            let made = staged.make_folders(out_folder, &file.location);
            if !made.map_err(|e| ModelError::io("write", &place, e))? {
                let name = base.path.display().to_string();
                let location = slashed(&file.location);
                return Err(ModelError::ExternalEscapes { name, location }.into());
            }
            let mut new = Staged::new_file(&place)?;
            file.write(new.as_file_mut(), &place, contents)?;
            staged.push(new, place)?;
        }
        Ok(())
    }
}

impl DataFile {
    /// Where it ends, with what is new in it.
    fn end(&self) -> u64 {
        self.ranges.iter().map(|r| r.start.saturating_add(r.length)).fold(self.size, u64::max)
    }

    fn write<C: Contents>(
        &self,
        out: &mut File,
        place: &Path,
        contents: &mut C,
    ) -> Result<(), C::Error> {
        let from = &self.source;
        let mut source = File::open(from).map_err(|e| ModelError::io("read", from, e))?;
        let mut written = 0;
        for Range { start, length, name } in &self.ranges {
            let old = written..self.size.min(*start);
            write::copy((&mut source, from), old, (out, place))?;
            let gap = start.saturating_sub(written.max(self.size));
            io::copy(&mut io::repeat(0).take(gap), out)
                .map_err(|e| ModelError::io("write", place, e))?;
            write::give(contents, name, *length, (out, place))?;
            written = start.saturating_add(*length);
        }
        Ok(write::copy((&mut source, from), written..self.size, (out, place))?)
    }
}

/// An initializer in a data file.
struct Use {
    location: PathBuf,
    changed: bool,
    range: Range,
}

/// Which of the sorted `uses` of a file share none of their bytes with another.
fn alone(uses: &[Use]) -> Vec<bool> {
    let end = |u: &Use| u.range.start.saturating_add(u.range.length);
    let (mut alone, mut before, mut furthest) = (vec![true; uses.len()], 0, 0);
    for (index, this) in uses.iter().enumerate() {
        if index > 0 && this.range.start < furthest {
            (alone[index], alone[before]) = (false, false);
        }
        if end(this) >= furthest {
            (before, furthest) = (index, end(this));
        }
    }
    alone
}

/// A location that was checked, without the parts that mean nothing.
fn plain(location: &str) -> PathBuf {
    Path::new(location).components().filter(|c| matches!(c, Component::Normal(_))).collect()
}

fn slashed(location: &Path) -> String {
    let parts = location.components().map(|part| part.as_os_str().to_string_lossy());
    parts.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_that_share_a_byte_are_not_alone() {
        let of = |ranges: &[(u64, u64)]| {
            let uses = ranges.iter().map(|&(start, length)| Use {
                location: PathBuf::new(),
                changed: true,
                range: Range { start, length, name: String::new() },
            });
            alone(&uses.collect::<Vec<_>>())
        };
        assert_eq!(of(&[(0, 4), (4, 4), (8, 0), (8, 4)]), [true; 4]);
        assert_eq!(of(&[(0, 4), (0, 4), (4, 4)]), [false, false, true]);
        assert_eq!(of(&[(0, 9), (1, 1), (8, 1), (9, 1)]), [false, false, false, true]);
        assert_eq!(of(&[(0, 2), (1, 9), (3, 1)]), [false, false, false]);
    }
}
