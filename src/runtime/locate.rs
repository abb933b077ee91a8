//! Where an ONNX Runtime library may be.

use std::{
    collections::HashSet,
    env, fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A place where the library was found or looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Why this place was considered.
    pub source: String,
    /// The library, or the folder that holds none.
    pub path: PathBuf,
    /// Whether `path` is a library.
    pub found: bool,
}

impl Candidate {
    /// Whether the library has its CUDA provider beside it, as those of `onnxruntime-gpu` have.
    pub fn has_cuda(&self) -> bool {
        let provider = self.path.parent().map(|folder| folder.join(CUDA_PROVIDER));
        self.found && provider.is_some_and(|path| path.is_file())
    }
}

const CUDA_PROVIDER: &str = if cfg!(windows) {
    "onnxruntime_providers_cuda.dll"
} else {
    "libonnxruntime_providers_cuda.so"
};
/// What the CUDA provider asks for, those that others ask for first, in pip's folder for CUDA 13.
const CUDA_LIBRARIES: [&str; 6] = [
    "libcudart.so.13",
    "libnvJitLink.so.13",
    "libcublasLt.so.13",
    "libcublas.so.13",
    "libcurand.so.10",
    "libcufft.so.12",
];

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.found { "found" } else { "no library" };
        write!(f, "  {}: {} ({state})", self.source, self.path.display())
    }
}

/// Every place to look, best first: the project's own copy, the active Python environment, the
/// system. `ORT_DYLIB_PATH` comes before all of them and is not listed here: when it is set
/// nothing else is tried.
pub fn candidates() -> Vec<Candidate> {
    let mut found = Vec::new();
    if let Some(root) = project_root() {
        from_environment(&root.join(".venv"), "the project's own copy", &mut found);
    }
    for variable in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        if let Some(prefix) = env::var_os(variable) {
            from_environment(Path::new(&prefix), variable, &mut found);
        }
    }
    for packages in python_packages() {
        from_packages(&packages, "python3 on PATH", &mut found);
    }
    for folder in library_folders() {
        from_folder(&folder, "the system", &mut found);
    }
    let mut seen = HashSet::new();
    found.retain(|c| seen.insert(c.path.canonicalize().unwrap_or_else(|_| c.path.clone())));
    found
}

/// The nearest folder above the program that holds a `.venv`. Not above the working directory: a
/// library there would run wherever `tla` is called.
fn project_root() -> Option<PathBuf> {
    let program = env::current_exe().ok()?;
    program.ancestors().find(|a| a.join(".venv").is_dir()).map(Path::to_owned)
}

fn from_environment(prefix: &Path, source: &str, found: &mut Vec<Candidate>) {
    let mut packages: Vec<PathBuf> = ["lib", "lib64"]
        .iter()
        .flat_map(|lib| entries(&prefix.join(lib)))
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("python3")))
        .map(|p| p.join("site-packages"))
        .collect();
    packages.push(prefix.join("Lib").join("site-packages"));
    let before = found.len();
    for folder in packages.iter().filter(|p| p.is_dir()) {
        from_packages(folder, source, found);
    }
    if found.len() == before {
        found.push(Candidate { source: source.into(), path: prefix.to_owned(), found: false });
    }
}

/// `onnxruntime` and `onnxruntime-gpu` both install the package folder `onnxruntime`.
fn from_packages(packages: &Path, source: &str, found: &mut Vec<Candidate>) {
    from_folder(&packages.join("onnxruntime").join("capi"), source, found);
}

/// The CUDA libraries that pip installed in the same environment as `library`.
pub(super) fn cuda_beside(library: &Path) -> Vec<PathBuf> {
    // site-packages/onnxruntime/capi/libonnxruntime.so
    let Some(packages) = library.ancestors().nth(3) else { return Vec::new() };
    let folder = packages.join("nvidia").join("cu13").join("lib");
    CUDA_LIBRARIES.iter().map(|name| folder.join(name)).filter(|path| path.is_file()).collect()
}

fn from_folder(folder: &Path, source: &str, found: &mut Vec<Candidate>) {
    let mut libraries: Vec<PathBuf> = entries(folder).filter(|p| is_library(p)).collect();
    libraries.sort();
    libraries.reverse();
    if libraries.is_empty() {
        found.push(Candidate { source: source.into(), path: folder.to_owned(), found: false });
    }
    for path in libraries {
        found.push(Candidate { source: source.into(), path, found: true });
    }
}

fn is_library(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    name == "onnxruntime.dll"
        || name == "libonnxruntime.so"
        || name.starts_with("libonnxruntime.so.")
        || (name.starts_with("libonnxruntime.") && name.ends_with(".dylib"))
}

fn python_packages() -> Vec<PathBuf> {
    let script =
        "import sysconfig as s; print(s.get_path('purelib')); print(s.get_path('platlib'))";
    // Isolated: a module in the working folder must not run.
    let output = Command::new("python3").args(["-I", "-c", script]).output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    let mut folders: Vec<PathBuf> =
        text.lines().filter(|l| !l.is_empty()).map(PathBuf::from).collect();
    folders.dedup();
    folders
}

fn library_folders() -> Vec<PathBuf> {
    let listed = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> =
        env::split_paths(&listed).filter(|p| !p.as_os_str().is_empty()).collect();
    folders.extend(
        ["/usr/local/lib", "/usr/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"]
            .map(PathBuf::from),
    );
    folders
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_python_environment_with_the_package_gives_its_library() {
        let prefix = tempfile::tempdir().unwrap();
        let capi = prefix.path().join("lib/python3.11/site-packages/onnxruntime/capi");
        fs::create_dir_all(&capi).unwrap();
        fs::write(capi.join("libonnxruntime.so.1.31.1"), b"").unwrap();
        fs::write(capi.join("libonnxruntime_providers_shared.so"), b"").unwrap();
        let mut found = Vec::new();
        from_environment(prefix.path(), "test", &mut found);
        assert_eq!(found.len(), 1);
        assert!(found[0].found && found[0].path.ends_with("libonnxruntime.so.1.31.1"));
    }

    #[test]
    fn a_build_with_cuda_is_told_from_one_without_and_finds_its_libraries() {
        let prefix = tempfile::tempdir().unwrap();
        let packages = prefix.path().join("lib/python3.11/site-packages");
        let (capi, cuda) = (packages.join("onnxruntime/capi"), packages.join("nvidia/cu13/lib"));
        fs::create_dir_all(&capi).unwrap();
        fs::create_dir_all(&cuda).unwrap();
        fs::write(capi.join("libonnxruntime.so.1.31.1"), b"").unwrap();
        let found = |list: &mut Vec<Candidate>| {
            from_environment(prefix.path(), "test", list);
            list.pop().unwrap()
        };
        assert!(!found(&mut Vec::new()).has_cuda());
        fs::write(capi.join(CUDA_PROVIDER), b"").unwrap();
        let candidate = found(&mut Vec::new());
        assert!(candidate.has_cuda());
        assert!(cuda_beside(&candidate.path).is_empty());
        for name in ["libcublas.so.13", "libcudart.so.13"] {
            fs::write(cuda.join(name), b"").unwrap();
        }
        let beside = cuda_beside(&candidate.path);
        assert_eq!(beside, ["libcudart.so.13", "libcublas.so.13"].map(|name| cuda.join(name)));
    }

    #[test]
    fn an_environment_without_it_is_still_reported_as_a_place_looked_at() {
        let prefix = tempfile::tempdir().unwrap();
        let mut found = Vec::new();
        from_environment(prefix.path(), "test", &mut found);
        assert_eq!(found.len(), 1);
        assert!(!found[0].found);
        assert!(found[0].to_string().contains("no library"));
    }
}
