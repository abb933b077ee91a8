//! An ONNX file in memory, checked.

use super::{
    Checkpoint, ModelError, Target, constants,
    dtypes::{self, ElementType},
    external,
    packed::Part,
    proto::{GraphProto, ModelProto, TensorProto},
};
use ndarray::{Array2, ArrayD, ArrayView2, s};
use prost::{Message, bytes::Bytes};
use std::{
    collections::{BTreeSet, HashSet},
    fs, io,
    path::{Path, PathBuf},
};

/// Protobuf implementations agree on no more than this.
pub(crate) const MAX_FILE: u64 = i32::MAX as u64;

/// A model as its file says it, and the file's place, against which external data resolve.
///
/// Values of this type hold a graph with nodes and an operator set; initializers have unique
/// names, possible shapes, and data that fill them.
#[derive(Debug)]
pub struct OnnxModel {
    /// The file's contents.
    pub proto: ModelProto,
    /// The .onnx file.
    pub path: PathBuf,
}

impl OnnxModel {
    /// Reads an .onnx file, or `model.onnx` in a folder, and checks it.
    ///
    /// Inline tensor data are not copied out of the file's bytes; external data are checked
    /// now and read when asked for.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let path = find_file(path)?;
        let size = fs::metadata(&path).map_err(|e| ModelError::io("read", &path, e))?.len();
        if size == 0 {
            return Err(ModelError::Empty { path });
        }
        if size > MAX_FILE {
            return Err(ModelError::TooLarge { path, bytes: size, limit: MAX_FILE });
        }
        let bytes = Bytes::from(fs::read(&path).map_err(|e| ModelError::io("read", &path, e))?);
        if bytes.starts_with(b"version https://git-lfs") {
            return Err(ModelError::LfsPointer { path });
        }
        let length = bytes.len();
        let proto = match ModelProto::decode(bytes) {
            Ok(proto) => proto,
            Err(source) => return Err(ModelError::NotOnnx { path, source }),
        };
        let unknown = length.abs_diff(proto.encoded_len()) as u64;
        let model = Self::from_proto(proto, path)?;
        match unknown {
            0 => Ok(model),
            unknown => Err(ModelError::UnknownFields { path: model.path, unknown }),
        }
    }

    /// Checks a model that is already in memory, as [`load`](Self::load) does. External data
    /// resolve against the folder of `path`.
    pub fn from_proto(proto: ModelProto, path: PathBuf) -> Result<Self, ModelError> {
        let missing = match &proto.graph {
            None => Some("graph"),
            Some(graph) if graph.node.is_empty() => Some("nodes"),
            Some(_) if proto.opset_import.is_empty() => Some("operator set"),
            Some(_) => None,
        };
        if let Some(part) = missing {
            return Err(ModelError::Incomplete { path, part });
        }
        let model = Self { proto, path };
        check_names(model.graph())?;
        if let Some(tensor) = constants::of(&model.proto).find(|t| external::is_external(t)) {
            return Err(ModelError::ExternalConstant { name: tensor.name().into() });
        }
        for tensor in &model.graph().initializer {
            match external::is_external(tensor) {
                true => drop(external::locate(model.folder(), tensor)?),
                false => dtypes::check_tensor(tensor)?,
            }
        }
        Ok(model)
    }

    /// The graph.
    pub fn graph(&self) -> &GraphProto {
        // A model without one is refused by `from_proto`; the empty graph answers for a `proto`
        // that was taken apart afterwards.
        static NONE: GraphProto = empty_graph();
        self.proto.graph.as_ref().unwrap_or(&NONE)
    }

    /// The folder that external data are relative to.
    pub fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }

    /// Whether any initializer's bytes lie in another file.
    pub fn has_external_data(&self) -> bool {
        self.graph().initializer.iter().any(external::is_external)
    }

    /// Every file the model is read from: the .onnx file, then its data files, each once.
    pub fn files(&self) -> Vec<PathBuf> {
        let tensors = self.graph().initializer.iter().filter(|t| external::is_external(t));
        let data: BTreeSet<_> = tensors.map(external::location).collect();
        let data = data.into_iter().map(|location| self.folder().join(location));
        [self.path.clone()].into_iter().chain(data).collect()
    }

    /// The initializer of this name.
    pub fn initializer(&self, name: &str) -> Option<&TensorProto> {
        self.graph().initializer.iter().find(|t| t.name() == name)
    }

    /// The little-endian bytes of a tensor, inline or external, filling its shape exactly.
    pub fn tensor_bytes(&self, tensor: &TensorProto) -> Result<Bytes, ModelError> {
        match external::is_external(tensor) {
            true => external::read(self.folder(), tensor),
            false => dtypes::inline_bytes(tensor),
        }
    }

    /// The values of an fp32, fp16 or bf16 tensor, widened to f32, in its stored shape.
    pub fn tensor_f32(&self, tensor: &TensorProto) -> Result<ArrayD<f32>, ModelError> {
        let shape = dtypes::shape_of(tensor)?;
        let element = ElementType::of(tensor);
        let values = dtypes::widen(tensor.name(), element, &self.tensor_bytes(tensor)?)?;
        ArrayD::from_shape_vec(shape, values).map_err(|_| bad_shape(tensor))
    }

    /// The canonical weight of a module: `[out, in]`, row-major.
    pub fn weight(&self, target: &Target) -> Result<Array2<f32>, ModelError> {
        self.canonical(target, |weight| weight.as_standard_layout().into_owned())
    }

    /// What `work` makes of the canonical weight of a module, `[out, in]` in any order of memory.
    pub(super) fn canonical<T>(
        &self,
        target: &Target,
        work: impl FnOnce(ArrayView2<f32>) -> T,
    ) -> Result<T, ModelError> {
        let tensor = self
            .initializer(&target.initializer)
            .ok_or_else(|| ModelError::NoInitializer { name: target.initializer.clone() })?;
        let stored = match &target.quantisation {
            Some(quantisation) => quantisation.grid(self, tensor)?.values(),
            None => {
                self.tensor_f32(tensor)?.into_dimensionality().map_err(|_| bad_shape(tensor))?
            }
        };
        let whole = if target.stored_transposed { stored.t() } else { stored.view() };
        let rows = match target.part {
            Some(Part { first, .. }) => first..first.saturating_add(target.rows),
            None => 0..target.rows,
        };
        if whole.nrows() != target.stored_rows() || rows.end > whole.nrows() {
            return Err(bad_shape(tensor));
        }
        let weight = whole.slice_move(s![rows, ..]);
        match weight.dim() == (target.rows, target.cols) {
            true => Ok(work(weight)),
            false => Err(bad_shape(tensor)),
        }
    }
}

fn bad_shape(tensor: &TensorProto) -> ModelError {
    ModelError::BadShape { name: tensor.name().into(), dims: tensor.dims.clone() }
}

const fn empty_graph() -> GraphProto {
    GraphProto {
        node: Vec::new(),
        name: None,
        initializer: Vec::new(),
        sparse_initializer: Vec::new(),
        doc_string: None,
        input: Vec::new(),
        output: Vec::new(),
        value_info: Vec::new(),
        quantization_annotation: Vec::new(),
        metadata_props: Vec::new(),
    }
}

fn find_file(path: &Path) -> Result<PathBuf, ModelError> {
    let kind = |p: &Path| match fs::metadata(p) {
        Ok(meta) => Ok(Some(meta)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(ModelError::io("read", p, e)),
    };
    let meta = kind(path)?.ok_or_else(|| ModelError::Missing { path: path.into() })?;
    if !meta.is_dir() {
        return match meta.is_file() {
            true if Checkpoint::is_named(path) => Err(ModelError::NoGraph { path: path.into() }),
            true => Ok(path.into()),
            false => Err(ModelError::NotAFile { path: path.into() }),
        };
    }
    let file = path.join("model.onnx");
    match kind(&file)? {
        Some(meta) if meta.is_file() => Ok(file),
        Some(_) => Err(ModelError::NotAFile { path: file }),
        None => Err(match Checkpoint::in_folder(path) {
            Some(path) => ModelError::NoGraph { path },
            None => ModelError::NoModelInFolder { path: path.into() },
        }),
    }
}

fn check_names(graph: &GraphProto) -> Result<(), ModelError> {
    let mut seen = HashSet::new();
    let sparse = graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref());
    for (index, tensor) in graph.initializer.iter().chain(sparse).enumerate() {
        if tensor.name().is_empty() {
            return Err(ModelError::UnnamedInitializer { index });
        }
        if !seen.insert(tensor.name()) {
            return Err(ModelError::DuplicateName { name: tensor.name().into() });
        }
    }
    for output in graph.node.iter().flat_map(|n| &n.output).filter(|o| !o.is_empty()) {
        if !seen.insert(output) {
            return Err(ModelError::DuplicateName { name: output.clone() });
        }
    }
    Ok(())
}
