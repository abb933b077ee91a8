use tla::format::{Adapter, ModuleId};
use tla::projection::{Geometry, mixing_into};

/// R of a module. With U·Σ and V of its weight in flash (split `paper`): y += α · U·Σ · (R · (Vᵀ·x)).
pub fn mixing<'r>(
    file: &[u8],
    base_digest: &[u8; 32],
    module: ModuleId,
    r: &'r mut [f64],
) -> Option<&'r mut [f64]> {
    let adapter = Adapter::decode(file).ok()?; // every field, then the SHA-256
    let header = adapter.header();
    if header.base_digest != *base_digest || !header.selects(module) || header.groups != 1 {
        return None; // made for other weights, leaves this one alone, or has more than one v
    }
    let v = adapter.group(0)?.map(f64::from);
    mixing_into(&Geometry::from(header), module, v, r)
}
