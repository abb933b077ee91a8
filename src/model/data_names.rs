//! What the data files of an output are called, so that none takes the place of another model's.

use super::OnnxModel;
use std::{
    cell::OnceCell,
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

/// The places of data files beside an output.
#[derive(Debug)]
pub(super) struct DataNames<'a> {
    model: &'a Path,
    out: &'a Path,
    out_folder: &'a Path,
    /// What an output that is replaced has beside it is replaced with it.
    replaced: OnceCell<Vec<PathBuf>>,
    given: HashSet<PathBuf>,
}

impl<'a> DataNames<'a> {
    /// For `out` in the folder `out_folder`, which is made from `model`.
    pub fn new(model: &'a Path, out: &'a Path, out_folder: &'a Path) -> Self {
        Self { model, out, out_folder, replaced: OnceCell::new(), given: HashSet::new() }
    }

    /// This location if no file is there but one that is replaced.
    pub fn same(&mut self, location: &Path) -> Option<PathBuf> {
        let free = !self.is_taken(location);
        free.then(|| self.give(location.into()))
    }

    /// This location under the first free name that starts like the output's.
    pub fn of_output(&mut self, location: &Path) -> PathBuf {
        let names = (1..u32::MAX).map(|count| {
            let out = if count == 1 { self.out.to_owned() } else { numbered(self.out, count) };
            renamed(location, self.model, &out)
        });
        let free = names.into_iter().find(|name| !self.is_taken(name));
        self.give(free.unwrap_or_else(|| location.into()))
    }

    /// This location, whatever is there.
    pub fn give(&mut self, location: PathBuf) -> PathBuf {
        self.given.insert(location.clone());
        location
    }

    /// Whether the file is beside the output that is replaced, and is its alone.
    pub fn is_replaced(&self, place: &Path) -> bool {
        let replaced = self.replaced.get_or_init(|| {
            let mut own = files_of(self.out).unwrap_or_default();
            match others(self.out, self.out_folder) {
                Some(others) => own.retain(|path| !others.contains(path)),
                // Of what cannot be read nobody knows what it has.
                None => own.retain(|path| is_named_after(path, self.out)),
            }
            own
        });
        fs::canonicalize(place).is_ok_and(|path| replaced.contains(&path))
    }

    fn is_taken(&self, location: &Path) -> bool {
        let place = self.out_folder.join(location);
        self.given.contains(location) || place.is_file() && !self.is_replaced(&place)
    }
}

/// The files of a model; none if it cannot be read.
fn files_of(model: &Path) -> Option<Vec<PathBuf>> {
    let files = OnnxModel::load(model).ok()?.files();
    Some(files.iter().filter_map(|path| fs::canonicalize(path).ok()).collect())
}

/// The files of all other models in the folder of an output; none if one cannot be read.
fn others(out: &Path, out_folder: &Path) -> Option<HashSet<PathBuf>> {
    let paths = fs::read_dir(out_folder).ok()?.map(|entry| Some(entry.ok()?.path()));
    let paths = paths.collect::<Option<Vec<_>>>()?;
    let is_other = |path: &&PathBuf| {
        path.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx"))
            && path.file_name() != out.file_name()
    };
    let files = paths.iter().filter(is_other).map(|path| files_of(path));
    Some(files.collect::<Option<Vec<_>>>()?.into_iter().flatten().collect())
}

/// Whether a data file has the name of the output, which it is given where the original is taken.
fn is_named_after(path: &Path, out: &Path) -> bool {
    let (name, stem) = (text(path.file_name()), text(out.file_stem()));
    name.strip_prefix(&stem).is_some_and(|rest| rest.starts_with(['.', '-']))
}

fn numbered(out: &Path, count: u32) -> PathBuf {
    let stem = text(out.file_stem());
    let ending = out.extension().map(|e| format!(".{}", e.to_string_lossy()));
    out.with_file_name(format!("{stem}-{count}{}", ending.unwrap_or_default()))
}

/// The location of a data file of `model` for `out` in the same folder.
fn renamed(location: &Path, model: &Path, out: &Path) -> PathBuf {
    let (name, old, new) =
        (text(location.file_name()), text(model.file_name()), text(out.file_name()));
    location.with_file_name(match name.strip_prefix(&old) {
        Some(rest) => new + rest,
        None => format!("{}.{name}", text(out.file_stem())),
    })
}

fn text(name: Option<&std::ffi::OsStr>) -> String {
    name.unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_file_takes_the_name_of_the_output() {
        let name = |location: &str| {
            let name =
                renamed(Path::new(location), Path::new("a/model.onnx"), Path::new("a/out.onnx"));
            name.to_str().unwrap().replace('\\', "/")
        };
        assert_eq!(name("model.onnx.data"), "out.onnx.data");
        assert_eq!(name("model.onnx_data"), "out.onnx_data");
        assert_eq!(name("sub/model.onnx.data"), "sub/out.onnx.data");
        assert_eq!(name("weights"), "out.weights");
        assert_eq!(name("sub/weights.bin"), "sub/out.weights.bin");
    }

    #[test]
    fn a_name_that_is_taken_is_not_given() {
        let folder = tempfile::tempdir().unwrap();
        let (model, out) = (Path::new("a/model.onnx"), folder.path().join("out.onnx"));
        fs::write(folder.path().join("out.onnx.data"), "another's").unwrap();
        let mut names = DataNames::new(model, &out, folder.path());
        assert_eq!(names.same(Path::new("model.onnx.data")), Some("model.onnx.data".into()));
        assert_eq!(names.same(Path::new("out.onnx.data")), None);
        assert_eq!(names.of_output(Path::new("model.onnx.data")), Path::new("out-2.onnx.data"));
        assert_eq!(names.of_output(Path::new("model.onnx.data")), Path::new("out-3.onnx.data"));
    }
}
