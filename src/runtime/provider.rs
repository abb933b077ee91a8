//! Where a graph runs, and what can keep it from running there.

use std::path::Path;

use ort::{
    ep::{self, ArenaExtendStrategy, ExecutionProvider},
    memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType},
    session::{
        RunOptions,
        builder::{BuilderResult, SessionBuilder},
    },
};

use super::RuntimeError;

/// Where a graph runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Provider {
    /// The CPU provider every build of ONNX Runtime has.
    #[default]
    Cpu,
    /// An NVIDIA device.
    Cuda(Cuda),
}

/// A CUDA device and how much of it may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cuda {
    /// Its number, from 0, as CUDA counts those it sees.
    pub device: u16,
    /// The most bytes one graph may take beside its weights; `None` for what is free.
    pub memory: Option<usize>,
}

impl Provider {
    /// As ONNX Runtime's messages name it.
    pub fn name(self) -> &'static str {
        match self {
            Provider::Cpu => "CPU",
            Provider::Cuda(_) => "CUDA",
        }
    }

    /// Makes this the provider of a session, or says why it cannot be. `library` is the loaded
    /// ONNX Runtime.
    pub(super) fn register(
        self,
        builder: SessionBuilder,
        library: &Path,
    ) -> Result<SessionBuilder, RuntimeError> {
        let Provider::Cuda(cuda) = self else { return Ok(builder) };
        let listed = ep::CUDA::is_available().unwrap_or(false);
        if !listed {
            return Err(RuntimeError::CpuOnly { library: library.display().to_string() });
        }
        preload(library);
        registered(builder, cuda).map_err(|e| refused(cuda.device, &e.to_string()))
    }

    /// Where the outputs that stay beside the model are put.
    pub(super) fn memory(self) -> ort::Result<MemoryInfo<'static>> {
        let (place, device) = match self {
            Provider::Cpu => (AllocationDevice::CPU, 0),
            Provider::Cuda(cuda) => (AllocationDevice::CUDA, i32::from(cuda.device)),
        };
        MemoryInfo::new(place, device, AllocatorType::Device, MemoryType::Default)
    }

    /// The options of a run after which memory that is no longer used goes back to the device,
    /// or `None` where there is nothing to give back. Two graphs used in turn would otherwise
    /// each keep the most they ever used (onnxruntime#29351).
    pub(super) fn giving_back(self) -> ort::Result<Option<RunOptions>> {
        let Provider::Cuda(cuda) = self else { return Ok(None) };
        let mut options = RunOptions::new()?;
        options.set("memory.enable_memory_arena_shrinkage", format!("gpu:{}", cuda.device))?;
        Ok(Some(options))
    }
}

#[expect(clippy::result_large_err, reason = "ort's error hands the builder back")]
fn registered(builder: SessionBuilder, cuda: Cuda) -> BuilderResult {
    let mut provider = ep::CUDA::default()
        .with_device_id(i32::from(cuda.device))
        // Doubling would take up to twice what a batch needs.
        .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested)
        // fp32 means fp32: TF32 keeps 10 bits of a product's factors.
        .with_tf32(false);
    if let Some(memory) = cuda.memory {
        provider = provider.with_memory_limit(memory);
    }
    builder
        .with_execution_providers([provider.build().error_on_failure()])?
        // Else weights lie in the arena, which can then give nothing back.
        .with_device_allocated_initializers()
}

/// What ONNX Runtime says of a device it cannot open, as the error that names the remedy.
pub(super) fn refused(device: u16, reason: &str) -> RuntimeError {
    // Behind the place in the runtime's source where it failed.
    let reason = reason.rsplit("FAIL : ").next().unwrap_or(reason);
    let reason = reason.trim().trim_end_matches('.').to_owned();
    if reason.contains("libcuda.so") || reason.contains("nvcuda.dll") {
        return RuntimeError::NoDriver { reason };
    }
    match reason.contains("cannot open shared object") || reason.contains("Failed to load") {
        true => RuntimeError::CudaLibraries { reason },
        false => RuntimeError::CudaDevice { device, reason },
    }
}

/// Loads the CUDA libraries that pip put beside `library`, where there are any: the provider asks
/// the system's loader for them by name, and that does not look into Python packages.
fn preload(library: &Path) {
    #[cfg(feature = "load")]
    for path in super::locate::cuda_beside(library) {
        // Whatever is missing is named by the provider when it is loaded itself.
        let _ = ort::util::preload_dylib(&path);
    }
    #[cfg(not(feature = "load"))]
    let _ = library;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_cuda_from_opening_is_told_apart() {
        let no_cublas = "Failed to load library libonnxruntime_providers_cuda.so with error: \
             libcublasLt.so.13: cannot open shared object file: No such file or directory";
        assert!(matches!(refused(0, no_cublas), RuntimeError::CudaLibraries { .. }));
        let no_driver = "Failed to load library libonnxruntime_providers_cuda.so with error: \
             libcuda.so.1: cannot open shared object file: No such file or directory";
        assert!(matches!(refused(0, no_driver), RuntimeError::NoDriver { .. }));
        let no_such = "CUDA failure 101: invalid device ordinal ; GPU=7";
        let Err(RuntimeError::CudaDevice { device: 7, reason }) = Err::<(), _>(refused(7, no_such))
        else {
            panic!("not a device")
        };
        assert_eq!(reason, no_such);
    }

    #[test]
    fn only_a_device_has_memory_to_give_back() {
        assert!(Provider::Cpu.giving_back().unwrap().is_none());
    }
}
