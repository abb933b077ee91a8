//! What a program needs beside the model. In an output folder that of the same model stays as it is, and
//! that of another is a reason to refuse.

use super::{
    files::{self, FileError},
    manifest,
};
use crate::model::OnnxModel;
use serde_json::Value;
use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, BufRead},
    path::{Path, PathBuf},
};

/// What a program needs beside the model to answer with it.
pub const SIDE_FILES: [&str; 16] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    GENAI_CONFIG,
];

/// By which onnxruntime-genai knows a model.
const GENAI_CONFIG: &str = "genai_config.json";

/// Those of [`SIDE_FILES`] that are a tokenizer.
pub const TOKENIZERS: [&str; 6] = [
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
];

/// By which transformers knows a model.
const CONFIG: &str = "config.json";

/// The side files of `folder` that differ from those of the model in `home` and stay: edits of an earlier
/// output, or what another exporter wrote for the same model. A tokenizer is no such file: by it two
/// models of one architecture and size can be told apart.
///
/// # Errors
/// If the folder holds another model's, or a list or configuration that the output would make untrue.
pub fn kept(folder: &Path, home: &Path) -> Result<Vec<&'static str>, FileError> {
    let another = |name: &str| FileError::OfAnother { path: folder.join(name) };
    if open(folder, manifest::NAME)?.is_some() {
        return Err(FileError::Listed { path: folder.join(manifest::NAME) });
    }
    let (there, new) = (Configurations::of(folder)?, Configurations::of(home)?);
    let alike = there.are_of_the_model_of(&new);
    if alike == Some(false) || there.is_told() && !new.is_told() {
        return Err(another(if there.config.is_some() { CONFIG } else { GENAI_CONFIG }));
    }
    let mut kept = Vec::new();
    for name in SIDE_FILES {
        let Some(mut old) = open(folder, name)? else { continue };
        let failed = |e| FileError::io("read", &folder.join(name), e);
        let Some(mut its) = open(home, name)? else {
            if name == GENAI_CONFIG {
                return Err(another(name));
            }
            continue;
        };
        if same_contents(&mut old, &mut its).map_err(failed)? {
            continue;
        }
        let fits = match name {
            GENAI_CONFIG => there.run_the_graph_of(&new),
            _ => !TOKENIZERS.contains(&name),
        };
        if alike != Some(true) || !fits {
            return Err(another(name));
        }
        kept.push(name);
    }
    Ok(kept)
}

/// The files of a model and those beside it that are read with it.
pub fn of_model(files: Vec<PathBuf>, folder: &Path) -> Vec<PathBuf> {
    let beside = SIDE_FILES.iter().map(|name| folder.join(name)).filter(|path| path.exists());
    files.into_iter().chain(beside).collect()
}

/// The name of a model's file if the configuration of onnxruntime-genai beside it says so: whoever copies
/// that must keep the name.
pub fn named_graph(model: &OnnxModel) -> Result<Option<PathBuf>, FileError> {
    let genai = Configurations::of(&model.home())?.genai;
    let named = genai.as_ref().and_then(|genai| genai.pointer("/model/decoder/filename"));
    let file = model.path.file_name().filter(|file| {
        named.and_then(Value::as_str).is_some_and(|named| *file == OsStr::new(named))
    });
    Ok(file.map(PathBuf::from))
}

/// The side file of this name in a folder; none if nothing has it.
///
/// # Errors
/// If it is a link to nothing, or cannot be read as a file.
pub fn open(folder: &Path, name: &str) -> Result<Option<File>, FileError> {
    let path = folder.join(name);
    let link = match fs::symlink_metadata(&path) {
        Ok(meta) => meta.is_symlink(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(FileError::io("read", &path, e)),
    };
    match fs::metadata(&path) {
        Ok(meta) if !meta.is_file() => Err(FileError::NotAFile { path }),
        Err(e) if link && e.kind() == io::ErrorKind::NotFound => Err(FileError::Dangling { path }),
        _ => File::open(&path).map(Some).map_err(|e| FileError::io("read", &path, e)),
    }
}

/// Whether two files have the same contents.
fn same_contents(a: &mut File, b: &mut File) -> io::Result<bool> {
    if a.metadata()?.len() != b.metadata()?.len() {
        return Ok(false);
    }
    let (mut a, mut b) = (io::BufReader::new(a), io::BufReader::new(b));
    loop {
        let (one, other) = (a.fill_buf()?, b.fill_buf()?);
        let length = one.len().min(other.len());
        if one[..length] != other[..length] {
            return Ok(false);
        }
        if length == 0 {
            return Ok(one.len() == other.len());
        }
        a.consume(length);
        b.consume(length);
    }
}

/// What a folder says of its model; nothing where that is no JSON.
struct Configurations {
    config: Option<Value>,
    genai: Option<Value>,
}

impl Configurations {
    fn of(folder: &Path) -> Result<Self, FileError> {
        let read = |name| {
            let there = open(folder, name)?.is_some();
            let bytes = there.then(|| files::read(&folder.join(name))).transpose()?;
            Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
        };
        Ok(Self { config: read(CONFIG)?, genai: read(GENAI_CONFIG)? })
    }

    /// Whether anything is said.
    fn is_told(&self) -> bool {
        self.config.is_some() || self.genai.is_some()
    }

    /// Whether both are of one model, by its kind, its width, its layers and its vocabulary, as far as
    /// both say; `None` if that is too little.
    fn are_of_the_model_of(&self, other: &Self) -> Option<bool> {
        let kinds = |name: fn(&Self) -> Option<&Value>| Some(name(self)? == name(other)?);
        let kind = kinds(|c| c.config.as_ref()?.get("model_type"))
            .or_else(|| kinds(|c| c.genai.as_ref()?.pointer("/model/type")));
        let sizes = self.sizes().into_iter().zip(other.sizes());
        let sizes = sizes.filter_map(|(one, other)| Some(one? == other?));
        let told: Vec<bool> = kind.into_iter().chain(sizes).collect();
        match told.iter().all(|same| *same) {
            false => Some(false),
            true => (told.len() > 1).then_some(true),
        }
    }

    /// Width, layers and vocabulary.
    fn sizes(&self) -> [Option<u64>; 3] {
        let names = [
            (&["hidden_size", "n_embd"], "/model/decoder/hidden_size"),
            (&["num_hidden_layers", "n_layer"], "/model/decoder/num_hidden_layers"),
            (&["vocab_size", "vocab_size"], "/model/vocab_size"),
        ];
        names.map(|(names, genai)| {
            // Models of pictures and text have a part for each.
            let parts = self.config.iter().flat_map(|c| [Some(c), c.get("text_config")]).flatten();
            let mut told = parts.flat_map(|part| names.iter().filter_map(|name| part.get(*name)));
            let config = told.find_map(Value::as_u64);
            config.or_else(|| self.genai.as_ref()?.pointer(genai)?.as_u64())
        })
    }

    /// Whether onnxruntime-genai is told of the same graph.
    fn run_the_graph_of(&self, other: &Self) -> bool {
        let (Some(one), Some(other)) = (&self.genai, &other.genai) else { return false };
        let parts = ["filename", "inputs", "outputs"].map(|part| format!("/model/decoder/{part}"));
        parts.iter().all(|part| one.pointer(part) == other.pointer(part))
    }
}
