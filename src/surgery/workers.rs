//! The threads of a merge: one reads, some compute and one writes at the same time.

use super::SurgeryError;
use rayon::ThreadPool;
use std::{
    panic,
    sync::{Mutex, PoisonError, mpsc::channel},
    thread::{self, ScopedJoinHandle},
};

/// Pieces of a matrix that are on their way at once.
const BUFFERS: usize = 4;

/// A pool, and buffers that serve one matrix after the other: new ones would cost a fault for every
/// page.
#[derive(Debug)]
pub(super) struct Workers {
    pool: ThreadPool,
    spare: Mutex<Vec<Vec<u8>>>,
}

impl Workers {
    /// So many threads compute; 0 means one per core.
    pub fn new(threads: usize) -> Result<Self, SurgeryError> {
        let built = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = built.map_err(|e| SurgeryError::Threads { threads, reason: e.to_string() })?;
        Ok(Self { pool, spare: Mutex::default() })
    }

    /// Takes pieces of these sizes through `read`, `change` and `write`: each piece in this order,
    /// each step from the first piece to the last. Stops at the first error.
    pub fn stream<E: From<SurgeryError>>(
        &self,
        sizes: &[usize],
        mut read: impl FnMut(&mut [u8]) -> Result<(), SurgeryError> + Send,
        mut change: impl FnMut(usize, &mut [u8]) -> Result<(), SurgeryError> + Send,
        mut write: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let pool = &self.pool;
        let mut buffers = self.buffers(sizes);
        if let (&[size], [buffer]) = (sizes, &mut buffers[..]) {
            let piece = &mut buffer[..size];
            read(piece)?;
            pool.install(|| change(0, piece))?;
            write(piece)?;
            self.keep(buffers);
            return Ok(());
        }
        let (free, empty) = channel::<Vec<u8>>();
        let (full, to_change) = channel::<Vec<u8>>();
        let (changed, to_write) = channel::<Vec<u8>>();
        for buffer in buffers {
            drop(free.send(buffer));
        }
        // A channel that is closed means an error elsewhere, which is told there.
        thread::scope(|scope| {
            let reader = scope.spawn(move || {
                for &size in sizes {
                    let Ok(mut buffer) = empty.recv() else { break };
                    read(&mut buffer[..size])?;
                    if full.send(buffer).is_err() {
                        break;
                    }
                }
                Ok::<_, SurgeryError>(empty)
            });
            let changer = scope.spawn(move || {
                for (index, (&size, mut buffer)) in sizes.iter().zip(to_change).enumerate() {
                    pool.install(|| change(index, &mut buffer[..size]))?;
                    if changed.send(buffer).is_err() {
                        break;
                    }
                }
                Ok::<_, SurgeryError>(())
            });
            let written = sizes.iter().zip(to_write).try_for_each(|(&size, buffer)| {
                write(&buffer[..size])?;
                drop(free.send(buffer));
                Ok::<_, E>(())
            });
            drop(free);
            let (changed, read) = (joined(changer), joined(reader));
            // Of several, the error of the earliest piece: who works later works on earlier ones.
            written?;
            changed?;
            self.keep(read?);
            Ok(())
        })
    }

    fn buffers(&self, sizes: &[usize]) -> Vec<Vec<u8>> {
        let size = sizes.iter().copied().max().unwrap_or(0);
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = || {
            let mut buffer = spare.pop().unwrap_or_default();
            buffer.resize(size.max(buffer.len()), 0);
            buffer
        };
        (0..sizes.len().min(BUFFERS)).map(|_| buffer()).collect()
    }

    fn keep(&self, buffers: impl IntoIterator<Item = Vec<u8>>) {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).extend(buffers);
    }
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked))
}
