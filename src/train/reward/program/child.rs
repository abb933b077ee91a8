//! A process whose standard streams are read and written without one waiting for the other.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    process::{self, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel},
    thread,
    time::{Duration, Instant},
};

use super::running;

/// Longest accepted reply, in bytes.
const MAX_REPLY: u64 = 1 << 20;
/// Replies that are kept unread; a program that writes more has to wait.
const MAX_UNREAD: usize = 1 << 6;
/// How long a program may take to end after its standard input has.
const GRACE: Duration = Duration::from_secs(2);
/// Between two looks at whether it has ended.
const LOOK: Duration = Duration::from_millis(5);

/// Why a program could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start `{program}`: {source}. Check its name and that it may be executed")]
pub struct StartError {
    /// Its name.
    pub program: String,
    /// What the system said.
    pub source: io::Error,
}

/// Why there is no next line.
#[derive(Debug)]
pub enum ReadError {
    /// None came in time.
    Timeout,
    /// The program closed its standard output.
    Ended {
        /// How it ended.
        status: String,
    },
    /// The system refused, or a line is too long.
    Unreadable {
        /// What went wrong.
        reason: String,
    },
}

/// A process that is killed and reaped when dropped.
#[derive(Debug)]
pub struct Child {
    process: process::Child,
    /// Nothing once the process is to end: its standard input closes with it.
    requests: Option<Sender<String>>,
    replies: Receiver<io::Result<Vec<u8>>>,
}

impl Child {
    /// Starts a program, its name first.
    pub fn start(command: &[String]) -> Result<Self, StartError> {
        let (program, arguments) =
            command.split_first().map_or(("", command), |(p, a)| (p.as_str(), a));
        let failed = |source| StartError { program: program.to_owned(), source };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        // Ctrl-C is for the run, which ends the program when it has written its state.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut process = command.spawn().map_err(failed)?;
        running::started(&process);
        let (requests, to_send) = channel();
        let (to_receive, replies) = sync_channel(MAX_UNREAD);
        let (stdin, stdout) = (process.stdin.take(), process.stdout.take());
        let child = Self { process, requests: Some(requests), replies };
        // From here on a failure drops, and so ends, the process.
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            thread::Builder::new().name(name.to_owned()).spawn(work).map(drop).map_err(failed)
        };
        if let (Some(stdin), Some(stdout)) = (stdin, stdout) {
            spawn("reward requests", Box::new(move || write_all(stdin, &to_send)))?;
            spawn("reward replies", Box::new(move || read_all(stdout, &to_receive)))?;
        }
        Ok(child)
    }

    /// Sends a line, which ends in a line feed, without waiting for it to be read.
    pub fn send(&self, line: String) {
        if let Some(requests) = &self.requests {
            // A program that reads no more is found out by the replies that do not come.
            let _ = requests.send(line);
        }
    }

    /// The next line, waiting at most so long.
    pub fn receive(&mut self, limit: Duration) -> Result<Vec<u8>, ReadError> {
        match self.replies.recv_timeout(limit) {
            Ok(Ok(line)) => Ok(line),
            Ok(Err(error)) => Err(ReadError::Unreadable { reason: error.to_string() }),
            Err(RecvTimeoutError::Timeout) => Err(ReadError::Timeout),
            Err(RecvTimeoutError::Disconnected) => Err(ReadError::Ended { status: self.end() }),
        }
    }

    /// Ends the process, after a moment by force, and tells how it ended.
    fn end(&mut self) -> String {
        self.requests = None;
        let patience = Instant::now() + GRACE;
        loop {
            match running::reap(&mut self.process) {
                Ok(Some(status)) => return status.to_string(),
                Ok(None) if Instant::now() < patience => thread::sleep(LOOK),
                _ => break,
            }
        }
        // Where it leads a group of its own, those it started too.
        #[cfg(unix)]
        running::kill_group(self.process.id());
        let _ = self.process.kill();
        loop {
            match running::reap(&mut self.process) {
                Ok(Some(_)) => return "its output closed, then killed".to_owned(),
                Ok(None) => thread::sleep(LOOK),
                Err(error) => return error.to_string(),
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end();
    }
}

/// Ends when the run has nothing more to send, or the program reads no more.
fn write_all(mut stdin: ChildStdin, requests: &Receiver<String>) {
    for line in requests {
        if stdin.write_all(line.as_bytes()).is_err() {
            return;
        }
    }
}

/// Ends with the program's output, or when nobody listens.
fn read_all(stdout: ChildStdout, replies: &SyncSender<io::Result<Vec<u8>>>) {
    let mut reader = BufReader::new(stdout);
    loop {
        let mut line = Vec::new();
        let read = (&mut reader).take(MAX_REPLY).read_until(b'\n', &mut line);
        let sent = match read {
            Ok(0) => return,
            Ok(_) if line.len() as u64 == MAX_REPLY && line.last() != Some(&b'\n') => {
                let error = format!("a line is longer than {MAX_REPLY} bytes");
                let _ = replies.send(Err(io::Error::other(error)));
                return;
            }
            Ok(_) => replies.send(Ok(line)),
            Err(error) => {
                let _ = replies.send(Err(error));
                return;
            }
        };
        if sent.is_err() {
            return;
        }
    }
}
