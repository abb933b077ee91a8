//! Where a command runs the model.

use clap::ValueEnum;

use super::CliError;
use crate::runtime::{Cuda, Provider, SessionOptions};

/// The options of the commands that run a model.
#[derive(clap::Args)]
pub struct Device {
    /// What runs the model; cuda needs onnxruntime-gpu and an NVIDIA device
    #[arg(long, value_enum, default_value_t = ProviderArg::Cpu)]
    provider: ProviderArg,
    /// With --provider cuda: the device [default: 0]
    #[arg(long, value_name = "N")]
    device: Option<u16>,
    /// With --provider cuda: the most memory each graph may take beside its weights [default: all]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    device_memory: Option<u32>,
    /// With --provider cpu: hold the weights a second time, packed for sampling, which a large model
    /// then does faster
    #[arg(long)]
    pack_weights: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ProviderArg {
    Cpu,
    Cuda,
}

impl Device {
    /// How sessions are set up.
    ///
    /// # Errors
    /// As [`provider`](Self::provider).
    pub fn sessions(&self, threads: usize) -> Result<SessionOptions, CliError> {
        Ok(SessionOptions::cpu(threads).on(self.provider()?).packing(self.pack_weights))
    }

    /// The provider as asked.
    ///
    /// # Errors
    /// If a device is chosen for a provider that has none.
    pub fn provider(&self) -> Result<Provider, CliError> {
        let unused =
            [("device", self.device.is_some()), ("device-memory", self.device_memory.is_some())];
        match (self.provider, unused.into_iter().find(|(_, given)| *given)) {
            (ProviderArg::Cpu, None) => Ok(Provider::Cpu),
            (ProviderArg::Cpu, Some((option, _))) => Err(CliError::Usage(format!(
                "--{option} is of no use to --provider cpu. Leave it out, or add --provider cuda"
            ))),
            (ProviderArg::Cuda, _) if self.pack_weights => Err(CliError::Usage(
                "--pack-weights is of no use to --provider cuda. Leave it out".to_owned(),
            )),
            (ProviderArg::Cuda, _) => {
                let bytes = |mib: u32| usize::try_from(u64::from(mib) << 20).unwrap_or(usize::MAX);
                let memory = self.device_memory.map(bytes);
                Ok(Provider::Cuda(Cuda { device: self.device.unwrap_or(0), memory }))
            }
        }
    }
}
