//! Whose an adapter is: minisign's public keys and signatures.

use super::files::{self, FileError};
use minisign_verify::{Error, Signature};
use std::{
    fmt,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// The most bytes a key or a signature may have; minisign's own have a few hundred.
pub const LIMIT: u64 = 64 << 10;

/// Why a public key cannot be used.
#[derive(Debug, Error)]
pub enum PublicKeyError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file that holds no key.
    #[error(
        "{} holds no minisign public key. Give the .pub file, or the key itself: the line that starts with RW",
        path.display()
    )]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
    /// Neither a file nor a key.
    #[error(
        "{} is neither a file nor a minisign public key. Give the .pub file, or the key itself: the line that starts with RW",
        given.display()
    )]
    Neither {
        /// As given.
        given: PathBuf,
    },
}

/// Why bytes do not count as signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsigned {
    /// Not what minisign writes.
    Malformed,
    /// A key with another number.
    OtherKey,
    /// The right key's number, and no signature of it over these bytes and this comment.
    Wrong,
}

impl fmt::Display for Unsigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "is no minisign signature, or was cut. Ask the author for it again",
            Self::OtherKey => "was made with another key. Ask the author which key is theirs",
            Self::Wrong => {
                "does not belong to these bytes: the adapter, the signature or its comment was \
                 changed, or the key is forged. Do not use the adapter"
            }
        })
    }
}

/// A key that signatures are checked with.
#[derive(Debug)]
pub struct PublicKey(minisign_verify::PublicKey);

impl PublicKey {
    /// Reads a file, or takes the key itself in base64.
    pub fn load(given: &Path) -> Result<Self, PublicKeyError> {
        match files::read_at_most(given, LIMIT) {
            Ok(bytes) => str::from_utf8(&bytes)
                .ok()
                .and_then(Self::parse)
                .ok_or_else(|| PublicKeyError::NotAKey { path: given.into() }),
            Err(FileError::Missing { .. }) => given
                .to_str()
                .and_then(Self::parse)
                .ok_or_else(|| PublicKeyError::Neither { given: given.into() }),
            Err(error) => Err(error.into()),
        }
    }

    /// The two lines of a .pub file, or the second alone.
    pub fn parse(text: &str) -> Option<Self> {
        let whole = minisign_verify::PublicKey::decode(text);
        whole.or_else(|_| minisign_verify::PublicKey::from_base64(text.trim())).ok().map(Self)
    }

    /// The trusted comment of a signature over these bytes; or why they are not signed.
    pub fn check(&self, bytes: &[u8], signature: &[u8]) -> Result<String, Unsigned> {
        let text = str::from_utf8(signature).map_err(|_| Unsigned::Malformed)?;
        let signature = Signature::decode(text).map_err(|_| Unsigned::Malformed)?;
        // Signatures of the bytes rather than of their hash are what minisign wrote before 0.10.
        match self.0.verify(bytes, &signature, true) {
            Ok(()) => Ok(signature.trusted_comment().to_owned()),
            Err(Error::UnexpectedKeyId) => Err(Unsigned::OtherKey),
            Err(_) => Err(Unsigned::Wrong),
        }
    }
}

/// Where the signature of a file lies.
pub fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".minisig");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = include_str!("../../tests/cli/minisign/open.pub");
    const ADAPTER: &[u8] = include_bytes!("../../tests/cli/qwen2-tied.tla");
    const SIGNATURE: &str = include_str!("../../tests/cli/minisign/a.tla.minisig");

    #[test]
    fn every_cut_and_every_changed_bit_of_what_is_signed_is_refused() {
        let key = PublicKey::parse(KEY).unwrap();
        assert!(key.check(ADAPTER, SIGNATURE.as_bytes()).unwrap().contains("file:a.tla"));
        for bit in 0..8 * ADAPTER.len() {
            let mut bytes = ADAPTER.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.check(&bytes, SIGNATURE.as_bytes()), Err(Unsigned::Wrong), "bit {bit}");
        }
        let end = SIGNATURE.trim_end().len();
        for len in 0..end {
            assert!(key.check(ADAPTER, &SIGNATURE.as_bytes()[..len]).is_err(), "{len} bytes");
        }
        // The first line is the comment that nothing vouches for.
        for at in SIGNATURE.find('\n').unwrap()..end {
            for bit in 0..8 {
                let mut bytes = SIGNATURE.as_bytes().to_vec();
                bytes[at] ^= 1 << bit;
                assert!(key.check(ADAPTER, &bytes).is_err(), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn a_key_is_two_lines_or_the_second_of_them_and_nothing_shorter() {
        let line = KEY.lines().nth(1).unwrap();
        assert!(PublicKey::parse(line).is_some());
        for len in 0..line.len() {
            assert!(PublicKey::parse(&line[..len]).is_none(), "{len} characters");
        }
        assert!(PublicKey::parse(SIGNATURE).is_none());
    }
}
