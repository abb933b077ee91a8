//! What a baked folder holds: `tla_manifest.json`, written by `bake` and checked by `verify`.

use super::{
    files::{self, FileError},
    output::hex,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Component, Path, PathBuf},
};
use thiserror::Error;

/// Its name in the folder.
pub const NAME: &str = "tla_manifest.json";

/// The most bytes it may have.
const LIMIT: u64 = 16 << 20;

/// How deep folders are followed.
const DEPTH: usize = 32;

/// The manifest of a folder. Digests are SHA-256 in lower-case hexadecimal.
#[derive(Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// 1.
    pub tla_manifest: u32,
    /// `merge` or `graft`.
    pub method: String,
    /// Whether integers are of a grid that was fitted to the merged values.
    pub requantised: bool,
    /// Base digest of the model it was made from; null if it has none.
    pub base_digest: Option<String>,
    /// The adapters in the order in which they were added.
    pub adapters: Vec<Ingredient>,
    /// The part of the update that survived the rounding; null of a graft, which rounds nothing.
    pub survival: Option<f64>,
    /// Every other file of the folder, sorted by name.
    pub files: Vec<Entry>,
}

/// An adapter that went in.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ingredient {
    /// The checksum in the file, which is its last 32 bytes.
    pub checksum: String,
    /// What it was multiplied by.
    pub weight: f64,
}

/// A file of the folder.
#[derive(Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Its path in the folder, `/` between parts.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its digest.
    pub sha256: String,
}

/// How a folder differs from its manifest.
#[derive(Debug, Default, Serialize)]
pub struct Differences {
    /// Files that are not there.
    pub missing: Vec<String>,
    /// Files that the manifest does not name.
    pub extra: Vec<String>,
    /// Files with other contents.
    pub changed: Vec<String>,
}

impl Differences {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        [&self.missing, &self.extra, &self.changed].iter().all(|list| list.is_empty())
    }
}

/// Why a manifest cannot be used.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not what `bake` writes.
    #[error("{} is not a manifest of tla: {reason}. Bake the folder again", path.display())]
    Malformed {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A path out of the folder.
    #[error("{} names {name:?}, which is no file of its folder. Bake the folder again", path.display())]
    Escapes {
        /// The manifest.
        path: PathBuf,
        /// The entry.
        name: String,
    },
    /// A name that cannot be written down.
    #[error("{} has a name that is not text, or lies too deep. Remove it", path.display())]
    Name {
        /// The file.
        path: PathBuf,
    },
}

impl Manifest {
    /// The manifest in a folder.
    pub fn read(folder: &Path) -> Result<Self, ManifestError> {
        let path = folder.join(NAME);
        let bytes = files::read_at_most(&path, LIMIT)?;
        let malformed = |reason: String| ManifestError::Malformed { path: path.clone(), reason };
        let manifest: Self =
            serde_json::from_slice(&bytes).map_err(|e| malformed(e.to_string()))?;
        if manifest.tla_manifest != 1 {
            return Err(malformed(format!("its version is {}", manifest.tla_manifest)));
        }
        let mut names = BTreeSet::new();
        for Entry { name, .. } in &manifest.files {
            let plain = Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
            if !plain || name.is_empty() || name.contains('\\') {
                return Err(ManifestError::Escapes { path: path.clone(), name: name.clone() });
            }
            if !names.insert(name) {
                return Err(malformed(format!("it names {name:?} twice")));
            }
        }
        Ok(manifest)
    }

    /// Writes it into its folder.
    pub fn write(&self, folder: &Path) -> Result<(), ManifestError> {
        let path = folder.join(NAME);
        let malformed = |e: serde_json::Error| ManifestError::Malformed {
            path: path.clone(),
            reason: e.to_string(),
        };
        let mut bytes = serde_json::to_vec_pretty(self).map_err(malformed)?;
        bytes.push(b'\n');
        Ok(files::write(&path, &bytes)?)
    }

    /// How the folder differs from it now.
    pub fn differences(&self, folder: &Path) -> Result<Differences, ManifestError> {
        let mut found: BTreeMap<String, PathBuf> = listed(folder)?.into_iter().collect();
        let mut differences = Differences::default();
        for entry in &self.files {
            let Some(path) = found.remove(&entry.name) else {
                differences.missing.push(entry.name.clone());
                continue;
            };
            let is_file = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file());
            if !is_file || digest(&path)? != (entry.bytes, entry.sha256.clone()) {
                differences.changed.push(entry.name.clone());
            }
        }
        differences.extra.extend(found.into_keys());
        Ok(differences)
    }
}

/// Every file of a folder but its manifest, sorted by name.
pub fn entries(folder: &Path) -> Result<Vec<Entry>, ManifestError> {
    let each = listed(folder)?.into_iter().map(|(name, path)| {
        let (bytes, sha256) = digest(&path)?;
        Ok(Entry { name, bytes, sha256 })
    });
    each.collect()
}

/// Names and paths of all that is no folder, links included, but the manifest.
fn listed(folder: &Path) -> Result<Vec<(String, PathBuf)>, ManifestError> {
    let mut listed = Vec::new();
    let mut folders = vec![(String::new(), folder.to_owned(), 0)];
    while let Some((prefix, path, depth)) = folders.pop() {
        let failed = |e: io::Error| FileError::io("read", &path, e);
        for entry in fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = entry.path();
            let name = entry.file_name();
            let name = name.to_str().filter(|_| depth < DEPTH);
            let name = name.ok_or_else(|| ManifestError::Name { path: path.clone() })?;
            let name = format!("{prefix}{name}");
            match entry.file_type().map_err(failed)?.is_dir() {
                true => folders.push((format!("{name}/"), path, depth + 1)),
                false => listed.push((name, path)),
            }
        }
    }
    listed.retain(|(name, _)| name != NAME);
    listed.sort_unstable();
    Ok(listed)
}

fn digest(path: &Path) -> Result<(u64, String), FileError> {
    let failed = |e| FileError::io("read", path, e);
    let mut file = fs::File::open(path).map_err(failed)?;
    let mut hasher = Hasher(Sha256::new());
    let bytes = io::copy(&mut file, &mut hasher).map_err(failed)?;
    Ok((bytes, hex(&<[u8; 32]>::from(hasher.0.finalize()))))
}

struct Hasher(Sha256);

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
