//! An ONNX file, checked: its graph in memory, its large weights where they are stored.

use super::{
    Checkpoint, ModelError, Target, constants,
    dtypes::{self, ElementType},
    external,
    home::{below_home, home_of, only_graph},
    layout::{self, Layout, Surplus},
    packed::Part,
    proto::{GraphProto, ModelProto, TensorProto},
    wire::{self, Fault, INITIALIZER},
};
use ndarray::{Array2, ArrayD, ArrayView2, s};
use prost::{Message, bytes::Bytes};
use std::{
    collections::{BTreeSet, HashSet},
    fs::{self, File},
    io::{self, Read},
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
    /// What the file says. Raw data of more than 4 KiB of an initializer of the main graph are
    /// left in the file: such an initializer is external in a way that only this crate reads.
    /// [`inlined`](Self::inlined) gives the whole.
    pub proto: ModelProto,
    /// The .onnx file.
    pub path: PathBuf,
    /// Where its parts lie; `None` if it was made in memory.
    pub(super) layout: Option<Layout>,
}

impl OnnxModel {
    /// Reads an .onnx file, or `model.onnx` in a folder, and checks it.
    ///
    /// Large weights are checked now and read when asked for, whether they lie in the file or
    /// in another.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let path = find_file(path)?;
        let io = |e| ModelError::io("read", &path, e);
        let mut file = File::open(&path).map_err(io)?;
        let meta = file.metadata().map_err(io)?;
        let size = meta.len();
        if size == 0 {
            return Err(ModelError::Empty { path });
        }
        if size > MAX_FILE {
            return Err(ModelError::TooLarge { path, bytes: size, limit: MAX_FILE });
        }
        let mut start = Vec::new();
        (&mut file).take(64).read_to_end(&mut start).map_err(io)?;
        if start.starts_with(b"version https://git-lfs") {
            return Err(ModelError::LfsPointer { path });
        }
        let file = File::open(&path).map_err(io)?;
        let scan = match wire::scan(file, size) {
            Ok(scan) => scan,
            Err(Fault::Io(source)) => return Err(io(source)),
            Err(Fault::Wire(source)) => return Err(ModelError::NotOnnx { path, source }),
        };
        let mut proto = match ModelProto::decode(Bytes::from(scan.skeleton.clone())) {
            Ok(proto) => proto,
            Err(source) => return Err(ModelError::NotOnnx { path, source: source.into() }),
        };
        let mut lengths = Vec::new();
        let tensors = proto.graph.iter_mut().flat_map(|graph| &mut graph.initializer);
        let fields = scan.graph.iter().filter(|field| field.number == INITIALIZER);
        for (tensor, field) in tensors.zip(fields) {
            lengths.push(tensor.encoded_len());
            let outside = external::is_external(tensor);
            if outside && field.raw.is_some() {
                return Err(ModelError::TwoPlaces { name: tensor.name().into() });
            }
            if outside && external::names_own(&path, tensor)? {
                return Err(ModelError::OwnFile { name: tensor.name().into() });
            }
            if let Some(raw) = field.raw.as_ref().filter(|_| field.is_stripped()) {
                external::leave(tensor, raw);
            }
        }
        let layout = Layout::new(scan, &proto, &lengths, layout::stamp(&meta));
        Ok(Self { layout: Some(layout), ..Self::from_proto(proto, path)? })
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
        let model = Self { proto, path, layout: None };
        check_names(model.graph())?;
        for tensor in constants::of(&model.proto).filter(|t| external::is_external(t)) {
            if !model.is_followed(tensor) {
                return Err(ModelError::ExternalConstant { name: tensor.name().into() });
            }
            external::locate(&model.path, tensor)?;
        }
        for tensor in &model.graph().initializer {
            match external::is_external(tensor) {
                true => drop(external::locate(&model.path, tensor)?),
                false => dtypes::check_tensor(tensor)?,
            }
        }
        Ok(model)
    }

    /// Whether this external constant is a node's of the main graph and lies in a data file that
    /// initializers lie in, as exporters of large models leave them: it goes where that file goes.
    fn is_followed(&self, constant: &TensorProto) -> bool {
        let graph = self.graph();
        let beside = |t: &&TensorProto| {
            external::is_beside(t) && external::location(t) == external::location(constant)
        };
        graph.initializer.iter().any(|t| beside(&t))
            && node_tensors(graph).any(|t| std::ptr::eq(t, constant))
    }

    /// The first constant of a node that lies in a data file.
    pub(super) fn constant_beside(&self) -> Option<&TensorProto> {
        node_tensors(self.graph()).find(|t| external::is_beside(t))
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
        external::folder_of(&self.path)
    }

    /// The folder in which tokenizer and configurations are looked for: that of the model, or the one
    /// above it if the model lies in a folder `onnx` without such files, as transformers.js has it.
    pub fn home(&self) -> PathBuf {
        home_of(&self.path)
    }

    /// Where the model lies below [`home`](Self::home), if not right in it.
    pub fn below_home(&self) -> Option<PathBuf> {
        below_home(&self.path)
    }

    /// The model with all that lies in its file, as runtimes read it. Data files stay beside it.
    pub fn inlined(&self) -> Result<ModelProto, ModelError> {
        self.inline(self.proto.clone())
    }

    /// The model with every weight in memory, wherever it lies. What was read from a file still
    /// names its place there, which counts for nothing beside the bytes.
    pub fn whole(&self) -> Result<ModelProto, ModelError> {
        let mut proto = self.proto.clone();
        let Some(graph) = proto.graph.as_mut() else { return Ok(proto) };
        let attributes = graph.node.iter_mut().flat_map(|node| &mut node.attribute);
        let constants = attributes.filter_map(|attribute| attribute.t.as_mut());
        for tensor in graph.initializer.iter_mut().chain(constants) {
            if external::is_external(tensor) {
                let bytes = self.tensor_bytes(tensor)?;
                external::load(tensor, &self.path, bytes);
            }
        }
        Ok(proto)
    }

    /// `proto`, which was made from this model, with all that lies in its file.
    pub(crate) fn inline(&self, mut proto: ModelProto) -> Result<ModelProto, ModelError> {
        for tensor in proto.graph.iter_mut().flat_map(|graph| &mut graph.initializer) {
            if external::is_own(tensor) {
                tensor.raw_data = Some(self.tensor_bytes(tensor)?);
                (tensor.data_location, tensor.external_data) = (None, Vec::new());
            }
        }
        Ok(proto)
    }

    /// What the file holds beyond the messages this crate knows, sorted.
    pub(crate) fn surplus(&self) -> Vec<&Surplus> {
        self.layout.as_ref().map(Layout::surplus).unwrap_or_default()
    }

    /// Refuses a file that is no longer the one that was read.
    pub(super) fn check_same(&self) -> Result<(), ModelError> {
        let Some(layout) = &self.layout else { return Ok(()) };
        let meta = fs::metadata(&self.path).map_err(|e| ModelError::io("read", &self.path, e))?;
        match layout.is_of(&meta) {
            true => Ok(()),
            false => Err(ModelError::Changed { path: self.path.clone() }),
        }
    }

    /// Whether any initializer's bytes lie in another file.
    pub fn has_external_data(&self) -> bool {
        self.graph().initializer.iter().any(external::is_beside)
    }

    /// Every file the model is read from: the .onnx file, then its data files, each once.
    pub fn files(&self) -> Vec<PathBuf> {
        let tensors = self.graph().initializer.iter().filter(|t| external::is_beside(t));
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
        if external::is_own(tensor) {
            self.check_same()?;
        }
        match external::is_external(tensor) {
            true => external::read(&self.path, tensor),
            false => dtypes::inline_bytes(tensor),
        }
    }

    /// A reader of what [`tensor_bytes`](Self::tensor_bytes) gives, and how many bytes it has.
    pub fn tensor_reader(
        &self,
        tensor: &TensorProto,
    ) -> Result<(u64, Box<dyn Read + Send>), ModelError> {
        if external::is_own(tensor) {
            self.check_same()?;
        }
        if external::is_external(tensor) {
            let (region, bytes) = external::open(&self.path, tensor)?;
            return Ok((region.length, Box::new(bytes)));
        }
        let bytes = dtypes::inline_bytes(tensor)?;
        Ok((bytes.len() as u64, Box::new(io::Cursor::new(bytes))))
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

/// The tensors that the nodes of the main graph hold.
fn node_tensors(graph: &GraphProto) -> impl Iterator<Item = &TensorProto> {
    let attributes = graph.node.iter().flat_map(|node| &node.attribute);
    attributes.filter_map(|attribute| attribute.t.as_ref())
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
        None => match Checkpoint::in_folder(path) {
            Some(path) => Err(ModelError::NoGraph { path }),
            None => {
                only_graph(path)?.ok_or_else(|| ModelError::NoModelInFolder { path: path.into() })
            }
        },
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
