//! Minisign's secret keys: how one is read, made and used.

use super::{
    files::{self, FileError},
    signature::{LIMIT, PublicKey},
};
use ct_codecs::{Base64, Decoder};
use minisign::{KeyPair, SecretKey, SecretKeyBox};
use std::{
    env, io,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// The environment variable that is asked for a password before the terminal is.
pub const PASSWORD: &str = "TLA_KEY_PASSWORD";

/// Bytes of a secret key: three algorithms, salt and limits of scrypt, number, key, checksum.
const KEY_LEN: usize = 158;
const WITH_PASSWORD: &[u8] = b"Sc";
const WITHOUT_PASSWORD: &[u8] = &[0, 0];
/// Four times the work minisign's own keys ask for.
const MOST_WORK: u64 = 1 << 27;

/// Why a secret key cannot be used or made.
#[derive(Debug, Error)]
pub enum SecretKeyError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not what minisign writes.
    #[error(
        "{} is no minisign secret key: {reason}. Give the file that `minisign -G` or \
         `tla sign --generate` wrote",
        path.display()
    )]
    NotAKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The key comes out otherwise than it was.
    #[error("the password does not open {}. Check it, and that the file is undamaged", path.display())]
    WrongPassword {
        /// The file.
        path: PathBuf,
    },
    /// The signature did not verify.
    #[error("{} is damaged: what it signs does not verify. Take it from a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// Nobody to ask.
    #[error("no password can be asked for here: {0}. Set {PASSWORD}, or run this in a terminal")]
    NoTerminal(io::Error),
    /// An environment variable that is no text.
    #[error("{PASSWORD} is not UTF-8. Set it to the password")]
    PasswordNotText,
    /// Two answers.
    #[error("the two passwords differ. Type the same one twice")]
    PasswordsDiffer,
    /// A password that protects nothing.
    #[error("the password is empty. Choose one, or say --no-password")]
    EmptyPassword,
    /// The system has no randomness, or the library refuses.
    #[error("no key could be made or used: {0}. Check the system's source of random numbers")]
    Library(minisign::PError),
}

/// A key that signs.
pub struct Secret {
    key: SecretKey,
    path: PathBuf,
}

impl Secret {
    /// Reads a key, and its password where it has one.
    pub fn load(path: &Path) -> Result<Self, SecretKeyError> {
        let refuse = |reason| SecretKeyError::NotAKey { path: path.into(), reason };
        let text = String::from_utf8(files::read_at_most(path, LIMIT)?)
            .map_err(|_| refuse("it is not text"))?;
        let line = text.lines().nth(1).ok_or_else(|| refuse("it has no second line"))?;
        let bytes = Base64::decode_to_vec(line, None)
            .map_err(|_| refuse("its second line is not base64"))?;
        if bytes.len() != KEY_LEN || &bytes[..2] != b"Ed" || &bytes[4..6] != b"B2" {
            return Err(refuse("its second line is no secret key, or was cut"));
        }
        let key = match &bytes[2..4] {
            WITHOUT_PASSWORD => open(text, &bytes, path)?,
            WITH_PASSWORD => {
                let work = u64::from_le_bytes(bytes[38..46].try_into().unwrap_or([0xff; 8]));
                if work > MOST_WORK {
                    return Err(refuse("it asks for more work than minisign ever does"));
                }
                let password = password(&format!("Password of {}: ", path.display()))?;
                SecretKeyBox::from(text).into_secret_key(Some(password)).map_err(|error| {
                    match error.kind() {
                        minisign::ErrorKind::Verify => {
                            SecretKeyError::WrongPassword { path: path.into() }
                        }
                        _ => refuse("its scrypt parameters are out of range"),
                    }
                })?
            }
            _ => return Err(refuse("its password protection is unknown")),
        };
        Ok(Self { key, path: path.into() })
    }

    /// The public key, in base64.
    pub fn public(&self) -> Result<String, SecretKeyError> {
        let public = minisign::PublicKey::from_secret_key(&self.key);
        Ok(public.map_err(SecretKeyError::Library)?.to_base64())
    }

    /// A signature of the bytes, which was verified, as the text of a .minisig file.
    pub fn sign(&self, bytes: &[u8], trusted_comment: &str) -> Result<String, SecretKeyError> {
        let comment = Some("signature from tla sign");
        let text = minisign::sign(None, &self.key, bytes, Some(trusted_comment), comment)
            .map_err(SecretKeyError::Library)?
            .into_string();
        let verified = PublicKey::parse(&self.public()?)
            .is_some_and(|key| key.check(bytes, text.as_bytes()).is_ok());
        match verified {
            true => Ok(text),
            false => Err(SecretKeyError::Damaged { path: self.path.clone() }),
        }
    }
}

/// A key without a password. `minisign -W` leaves its checksum zero, which the library refuses.
fn open(text: String, bytes: &[u8], path: &Path) -> Result<SecretKey, SecretKeyError> {
    let key = match bytes[KEY_LEN - 32..] == [0; 32] {
        true => SecretKey::from_bytes(bytes),
        false => SecretKeyBox::from(text).into_unencrypted_secret_key(),
    };
    key.map_err(|_| SecretKeyError::Damaged { path: path.into() })
}

/// A new pair of keys, as the text of their files.
pub struct NewPair {
    /// To keep.
    pub secret: String,
    /// To give away.
    pub public: String,
    /// The second line of `public`.
    pub public_key: String,
}

impl NewPair {
    /// Makes a pair, under a password or not.
    pub fn generate(with_password: bool) -> Result<Self, SecretKeyError> {
        let pair = match with_password {
            true => KeyPair::generate_encrypted_keypair(Some(new_password()?)),
            false => KeyPair::generate_unencrypted_keypair(),
        };
        let KeyPair { pk, sk } = pair.map_err(SecretKeyError::Library)?;
        let comment =
            if with_password { "minisign encrypted secret key" } else { "minisign secret key" };
        Ok(Self {
            secret: sk.to_box(Some(comment)).map_err(SecretKeyError::Library)?.into_string(),
            public: pk.to_box().map_err(SecretKeyError::Library)?.into_string(),
            public_key: pk.to_base64(),
        })
    }
}

fn new_password() -> Result<String, SecretKeyError> {
    let first = password("Password of the new key: ")?;
    if first.is_empty() {
        return Err(SecretKeyError::EmptyPassword);
    }
    match password("The same again: ")? == first {
        true => Ok(first),
        false => Err(SecretKeyError::PasswordsDiffer),
    }
}

/// From the environment, or else from the terminal.
fn password(prompt: &str) -> Result<String, SecretKeyError> {
    match env::var(PASSWORD) {
        Ok(password) => Ok(password),
        Err(env::VarError::NotUnicode(_)) => Err(SecretKeyError::PasswordNotText),
        Err(env::VarError::NotPresent) => {
            rpassword::prompt_password(prompt).map_err(SecretKeyError::NoTerminal)
        }
    }
}
