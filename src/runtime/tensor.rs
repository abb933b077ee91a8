//! Values in and out of a session.

use std::borrow::Cow;

use half::{bf16, f16};
use ort::value::{DynValue, Tensor as OrtTensor, TensorElementType};

use super::{RuntimeError, environment::environment};
use crate::model::proto::tensor_proto::DataType;

/// A tensor owned by ONNX Runtime. What one run returns can be fed to the next without a copy.
#[derive(Debug)]
pub struct Tensor(pub(super) DynValue);

impl Tensor {
    /// A float32 tensor; `data` holds as many values as `dims` multiply to.
    ///
    /// # Errors
    /// If they do not agree, or no library is found.
    pub fn f32(dims: &[usize], data: Vec<f32>) -> Result<Self, RuntimeError> {
        // A tensor made before the library is loaded would load one from the default place.
        environment()?;
        let made = OrtTensor::from_array((dims.to_vec(), data)).map_err(|e| wrong(dims, &e))?;
        Ok(Self(made.into_dyn()))
    }

    /// A float16 tensor; `data` holds as many values as `dims` multiply to.
    ///
    /// # Errors
    /// If they do not agree, or no library is found.
    pub fn f16(dims: &[usize], data: Vec<f16>) -> Result<Self, RuntimeError> {
        // A tensor made before the library is loaded would load one from the default place.
        environment()?;
        let made = OrtTensor::from_array((dims.to_vec(), data)).map_err(|e| wrong(dims, &e))?;
        Ok(Self(made.into_dyn()))
    }

    /// A tensor without values of a floating-point type; a dimension of `dims` is 0.
    ///
    /// # Errors
    /// If the type is another, a dimension is missing, or no library is found.
    pub fn empty(kind: DataType, dims: &[usize]) -> Result<Self, RuntimeError> {
        environment()?;
        match kind {
            DataType::Float => Self::f32(dims, Vec::new()),
            DataType::Float16 => Self::f16(dims, Vec::new()),
            DataType::Bfloat16 => {
                let made = OrtTensor::from_array((dims.to_vec(), Vec::<bf16>::new()));
                Ok(Self(made.map_err(|e| wrong(dims, &e))?.into_dyn()))
            }
            other => Err(RuntimeError::Tensor {
                name: "input".to_owned(),
                found: format!("{other:?}"),
                expected: "float32, float16 or bfloat16".to_owned(),
            }),
        }
    }

    /// An int64 tensor; `data` holds as many values as `dims` multiply to.
    ///
    /// # Errors
    /// If they do not agree, or no library is found.
    pub fn i64(dims: &[usize], data: Vec<i64>) -> Result<Self, RuntimeError> {
        // A tensor made before the library is loaded would load one from the default place.
        environment()?;
        let made = OrtTensor::from_array((dims.to_vec(), data)).map_err(|e| wrong(dims, &e))?;
        Ok(Self(made.into_dyn()))
    }

    /// An int32 tensor; `data` holds as many values as `dims` multiply to.
    ///
    /// # Errors
    /// If they do not agree, or no library is found.
    pub fn i32(dims: &[usize], data: Vec<i32>) -> Result<Self, RuntimeError> {
        // A tensor made before the library is loaded would load one from the default place.
        environment()?;
        let made = OrtTensor::from_array((dims.to_vec(), data)).map_err(|e| wrong(dims, &e))?;
        Ok(Self(made.into_dyn()))
    }

    /// A tensor of truth values; `data` holds as many as `dims` multiply to.
    ///
    /// # Errors
    /// If they do not agree, or no library is found.
    pub fn bool(dims: &[usize], data: Vec<bool>) -> Result<Self, RuntimeError> {
        // A tensor made before the library is loaded would load one from the default place.
        environment()?;
        let made = OrtTensor::from_array((dims.to_vec(), data)).map_err(|e| wrong(dims, &e))?;
        Ok(Self(made.into_dyn()))
    }

    /// The dimensions.
    pub fn dims(&self) -> Vec<usize> {
        let shape = self.0.dtype().tensor_shape();
        shape
            .map(|s| s.iter().map(|d| usize::try_from(*d).unwrap_or(0)).collect())
            .unwrap_or_default()
    }

    /// The element type.
    pub fn kind(&self) -> DataType {
        match self.0.dtype().tensor_type() {
            Some(TensorElementType::Float32) => DataType::Float,
            Some(TensorElementType::Float16) => DataType::Float16,
            Some(TensorElementType::Bfloat16) => DataType::Bfloat16,
            Some(TensorElementType::Float64) => DataType::Double,
            Some(TensorElementType::Int64) => DataType::Int64,
            Some(TensorElementType::Int32) => DataType::Int32,
            Some(TensorElementType::Bool) => DataType::Bool,
            _ => DataType::Undefined,
        }
    }

    /// The values of a float32, float16 or bfloat16 tensor, widened; `name` is for the error.
    ///
    /// # Errors
    /// If it holds something else.
    pub fn to_f32(&self, name: &str) -> Result<Cow<'_, [f32]>, RuntimeError> {
        match self.kind() {
            DataType::Float16 => {
                Ok(self.as_f16(name)?.iter().map(|x| x.to_f32()).collect::<Vec<_>>().into())
            }
            DataType::Bfloat16 => {
                let extracted = self.0.try_extract_tensor::<bf16>();
                let (_, data) = extracted.map_err(|_| self.not(name, "bfloat16"))?;
                Ok(data.iter().map(|x| x.to_f32()).collect::<Vec<_>>().into())
            }
            _ => self.as_f32(name).map(Cow::Borrowed),
        }
    }

    /// The values of a float16 tensor; `name` is for the error.
    ///
    /// # Errors
    /// If it holds something else.
    pub fn as_f16(&self, name: &str) -> Result<&[f16], RuntimeError> {
        let extracted = self.0.try_extract_tensor::<f16>();
        extracted.map(|(_, data)| data).map_err(|_| self.not(name, "float16"))
    }

    /// The values of a float32 tensor; `name` is for the error.
    ///
    /// # Errors
    /// If it holds something else.
    pub fn as_f32(&self, name: &str) -> Result<&[f32], RuntimeError> {
        let extracted = self.0.try_extract_tensor::<f32>();
        extracted.map(|(_, data)| data).map_err(|_| self.not(name, "float32"))
    }

    fn not(&self, name: &str, expected: &str) -> RuntimeError {
        RuntimeError::Tensor {
            name: name.to_owned(),
            found: format!("{:?}", self.kind()),
            expected: expected.to_owned(),
        }
    }
}

fn wrong(dims: &[usize], error: &ort::Error) -> RuntimeError {
    RuntimeError::Tensor {
        name: "input".to_owned(),
        found: error.to_string(),
        expected: format!("shape {dims:?}"),
    }
}
