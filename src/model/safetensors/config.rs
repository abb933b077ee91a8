//! What a checkpoint's config.json says about its heads.

use serde::Deserialize;
use std::{fs::File, io::Read, path::Path};

/// Bytes that are read of a config.json.
const LIMIT: u64 = 1 << 20;

/// Numbers of heads, as far as a packed projection is cut by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Heads {
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
}

impl Heads {
    /// Those of the config.json in a folder, if there is one that names them.
    pub fn read(folder: &Path) -> Option<Self> {
        let file = File::open(folder.join("config.json")).ok()?;
        let mut bytes = Vec::new();
        file.take(LIMIT).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Rows of query, key and value in a projection of so many rows.
    pub fn rows(self, rows: usize) -> Option<Vec<usize>> {
        let queries = self.num_attention_heads;
        let keys = self.num_key_value_heads.unwrap_or(queries);
        let heads = keys.checked_mul(2)?.checked_add(queries)?;
        let fits = queries > 0 && keys > 0 && rows.is_multiple_of(heads);
        fits.then(|| [queries, keys, keys].map(|n| n * (rows / heads)).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cut_by_heads_or_not_at_all() {
        let heads =
            |queries, keys| Heads { num_attention_heads: queries, num_key_value_heads: keys };
        assert_eq!(heads(4, Some(2)).rows(128), Some(vec![64, 32, 32]));
        assert_eq!(heads(4, None).rows(12), Some(vec![4, 4, 4]));
        for (queries, keys) in [(0, None), (4, Some(0)), (5, Some(1)), (usize::MAX, Some(1))] {
            assert_eq!(heads(queries, keys).rows(128), None);
        }
    }
}
