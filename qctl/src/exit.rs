//! Exit statuses and failures.
//!
//! Always true here: a [`Failure`] knows its exit status, its one line for people and, for
//! `-o json`, its stable code; a refusal of the server keeps all that the server said.

use qd_protocol::{Class, ClientError, ErrorCode, QueueName, Refusal};

/// Every status that `qctl` ends with; the same table stands in `qctl(1)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// The negative answer a script tests for.
    Negative = 1,
    /// The command line is wrong.
    Usage = 2,
    /// `server check` could not look.
    Unknown = 3,
    /// The input is not what it must be.
    BadInput = 65,
    /// No such queue, no such input file.
    Missing = 66,
    /// No server answers.
    Unreachable = 69,
    /// A fault inside the server, or an outcome that cannot be known.
    Internal = 70,
    /// The queue exists with other attributes.
    Exists = 73,
    /// Reading or writing failed on our side.
    Io = 74,
    /// The same command may succeed later.
    TryAgain = 75,
    /// The other side is no qd, or versions do not meet.
    Protocol = 76,
    /// Permission denied.
    NotAllowed = 77,
    /// The environment does not make sense.
    Config = 78,
    /// `--timeout` passed.
    Timeout = 124,
    /// The command to run is not executable.
    NotExecutable = 126,
    /// The command to run was not found.
    NotFound = 127,
    /// SIGINT.
    Interrupted = 130,
    /// The reader of the output has gone away: as a GNU tool killed by SIGPIPE.
    Pipe = 141,
    /// SIGTERM.
    Terminated = 143,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// The server refused the request.
    #[error("{0}{advice}", advice = advice(.0))]
    Refused(Box<Refusal>),
    /// The server was not reached, or the conversation broke.
    #[error("{0}")]
    Client(ClientError),
    /// The command line is wrong in a way that clap cannot see.
    #[error("{0}")]
    Usage(String),
    /// The parser does not take the command line.
    #[error("{text}")]
    Parse {
        /// What is wrong, in one line.
        text: String,
        /// Lines that help: what there is, and how it is called.
        hints: String,
    },
    /// The input is not what it must be.
    #[error("{0}")]
    BadInput(String),
    /// An input file is not there or not readable.
    #[error("{0}")]
    Missing(String),
    /// Reading or writing failed.
    #[error("{0}")]
    Io(String),
    /// The environment does not make sense.
    #[error("{0}")]
    Config(String),
    /// What is to be made is there, and is another one.
    #[error("{0}")]
    Exists(String),
    /// The server that was started did not come up.
    #[error("{0}")]
    NotStarted(String),
    /// The answer breaks the protocol, or a body was damaged on its way.
    #[error("{0}")]
    Protocol(String),
    /// A check of our own failed.
    #[error("{0}")]
    Internal(String),
    /// A command is there and cannot be run.
    #[error("{0}")]
    NotExecutable(String),
    /// There is no such command.
    #[error("{0}")]
    NotFound(String),
    /// `--timeout` passed.
    #[error("not done within {0} (--timeout)")]
    Timeout(String),
    /// SIGINT.
    #[error("interrupted")]
    Interrupted,
    /// SIGTERM.
    #[error("terminated")]
    Terminated,
    /// The reader of the output has gone away.
    #[error("the output was closed")]
    ClosedPipe,
    /// A failure of ours that is about one queue.
    #[error("{cause}")]
    OfQueue {
        /// Its name.
        queue: String,
        /// What is wrong.
        cause: Box<Failure>,
    },
    /// A failure seen from a greater height: how far the command got before it.
    #[error("{text}: {cause}")]
    After {
        /// How far it got.
        text: String,
        /// What stopped it.
        cause: Box<Failure>,
    },
}

impl Failure {
    /// The exit status.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Refused(refusal) => exit_of_refusal(refusal),
            Self::Client(error) => exit_of_client(error),
            Self::Usage(_) | Self::Parse { .. } => Exit::Usage,
            Self::BadInput(_) => Exit::BadInput,
            Self::Missing(_) => Exit::Missing,
            Self::Io(_) => Exit::Io,
            Self::Config(_) => Exit::Config,
            Self::Exists(_) => Exit::Exists,
            Self::NotStarted(_) => Exit::Unreachable,
            Self::Protocol(_) => Exit::Protocol,
            Self::Internal(_) => Exit::Internal,
            Self::NotExecutable(_) => Exit::NotExecutable,
            Self::NotFound(_) => Exit::NotFound,
            Self::Timeout(_) => Exit::Timeout,
            Self::Interrupted => Exit::Interrupted,
            Self::Terminated => Exit::Terminated,
            Self::ClosedPipe => Exit::Pipe,
            Self::After { cause, .. } | Self::OfQueue { cause, .. } => cause.exit(),
        }
    }

    /// True when nothing is to be said: the user knows, or nobody listens.
    pub fn is_quiet(&self) -> bool {
        matches!(self, Self::Interrupted | Self::Terminated | Self::ClosedPipe)
    }

    /// What the server said, if it was the server.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::After { cause, .. } | Self::OfQueue { cause, .. } => cause.refusal(),
            _ => None,
        }
    }

    /// True when the server is away, or about to be, and may be back later.
    pub fn is_absence(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.code == ErrorCode::Closing,
            Self::Client(error) => matches!(
                error,
                ClientError::Lost { .. }
                    | ClientError::Unreachable { .. }
                    | ClientError::Busy { .. }
            ),
            _ => false,
        }
    }

    /// The same, to say more in it.
    pub fn refusal_mut(&mut self) -> Option<&mut Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::After { cause, .. } | Self::OfQueue { cause, .. } => cause.refusal_mut(),
            _ => None,
        }
    }

    /// The queue that it is about, if it is about one.
    pub fn queue(&self) -> Option<&str> {
        match self {
            Self::OfQueue { queue, .. } => Some(queue),
            Self::After { cause, .. } => cause.queue(),
            Self::Refused(refusal) => refusal.queue.as_deref(),
            _ => None,
        }
    }

    /// Adds the queue that it is about.
    #[must_use]
    pub fn of(self, queue: &QueueName) -> Self {
        Self::OfQueue { queue: queue.to_string(), cause: Box::new(self) }
    }

    /// Lines that help, behind the failure's own.
    pub fn hints(&self) -> Option<&str> {
        match self {
            Self::Parse { hints, .. } => Some(hints.as_str()).filter(|hints| !hints.is_empty()),
            Self::After { cause, .. } | Self::OfQueue { cause, .. } => cause.hints(),
            _ => None,
        }
    }

    /// Adds how far the command got.
    #[must_use]
    pub fn after(self, text: impl Into<String>) -> Self {
        Self::After { text: text.into(), cause: Box::new(self) }
    }

    /// The stable code in JSON.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.code.name(),
            Self::Client(error) => match error {
                ClientError::Unreachable { .. } => "unreachable",
                ClientError::Lost { .. } => "connection_lost",
                ClientError::Versions { .. } => "versions",
                ClientError::Busy { .. } => "too_many_connections",
                ClientError::Refused(refusal) => refusal.code.name(),
                ClientError::Protocol { .. } => "protocol",
            },
            Self::Usage(_) | Self::Parse { .. } => "usage",
            Self::BadInput(_) => "bad_input",
            Self::Missing(_) => "no_input",
            Self::Io(_) => "io",
            Self::Config(_) => "config",
            Self::Exists(_) => "exists",
            Self::NotStarted(_) => "unreachable",
            Self::Protocol(_) => "protocol",
            Self::Internal(_) => "internal",
            Self::NotExecutable(_) => "command_not_executable",
            Self::NotFound(_) => "command_not_found",
            Self::Timeout(_) => "timeout",
            Self::Interrupted => "interrupted",
            Self::Terminated => "terminated",
            Self::ClosedPipe => "closed_pipe",
            Self::After { cause, .. } | Self::OfQueue { cause, .. } => cause.code(),
        }
    }

    /// The class in JSON: the server's, or our own by the same rule.
    pub fn class(&self) -> Class {
        if let Some(refusal) = self.refusal() {
            return refusal.class;
        }
        match self.exit() {
            Exit::NotAllowed => Class::NotAllowed,
            Exit::Unreachable
            | Exit::TryAgain
            | Exit::Timeout
            | Exit::Interrupted
            | Exit::Terminated => Class::TryAgain,
            Exit::Missing => Class::Gone,
            _ => Class::FixRequest,
        }
    }

    /// Whether the same command may succeed later.
    pub fn retryable(&self) -> bool {
        self.refusal().map_or(self.class() == Class::TryAgain, |refusal| refusal.retryable)
    }
}

impl From<clap::Error> for Failure {
    fn from(error: clap::Error) -> Self {
        let rendered = error.render().to_string();
        let rendered = rendered.strip_prefix("error: ").unwrap_or(&rendered);
        // What is wrong may have lines of its own, up to the first empty one.
        let (what, hints) = rendered.split_once("\n\n").unwrap_or((rendered, ""));
        let text = what.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        let hints = hints.lines().filter(|line| !line.is_empty());
        Self::Parse { text, hints: hints.collect::<Vec<_>>().join("\n") }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(refusal) => Self::Refused(refusal),
            other => Self::Client(other),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

/// What a limit that may have room again adds to the server's line.
fn advice(refusal: &Refusal) -> &'static str {
    if refusal.class == Class::LimitReached && refusal.retryable { "; retry later" } else { "" }
}

fn exit_of_refusal(refusal: &Refusal) -> Exit {
    match refusal.code {
        ErrorCode::NoSuchQueue | ErrorCode::QueueDropped => Exit::Missing,
        ErrorCode::QueueExists => Exit::Exists,
        ErrorCode::QueueNotEmpty | ErrorCode::ReceiptExpired | ErrorCode::NoSuchMessage => {
            Exit::Negative
        }
        ErrorCode::AttributeOutOfRange | ErrorCode::AttributesConflict => Exit::Usage,
        ErrorCode::MessageTooLarge
        | ErrorCode::StepTooLarge
        | ErrorCode::HeadersTooLarge
        | ErrorCode::ReceiptInvalid
        | ErrorCode::ReceiptOfOtherQueue => Exit::BadInput,
        ErrorCode::BodyCorrupt | ErrorCode::MessageLeased => Exit::TryAgain,
        ErrorCode::MalformedRequest
        | ErrorCode::UnknownVerb
        | ErrorCode::FrameTooLarge
        | ErrorCode::BatchTooLarge
        | ErrorCode::HelloExpected => Exit::Protocol,
        ErrorCode::Internal | ErrorCode::AnswerForgotten => Exit::Internal,
        // Also what a newer server says: the class tells what the caller can do.
        _ => match refusal.class {
            Class::FixRequest => Exit::BadInput,
            Class::NotAllowed => Exit::NotAllowed,
            Class::LimitReached | Class::TryAgain => Exit::TryAgain,
            Class::Gone => Exit::Negative,
        },
    }
}

fn exit_of_client(error: &ClientError) -> Exit {
    match error {
        ClientError::Unreachable { kind, .. } if *kind == std::io::ErrorKind::PermissionDenied => {
            Exit::NotAllowed
        }
        ClientError::Unreachable { .. } | ClientError::Lost { .. } => Exit::Unreachable,
        ClientError::Busy { .. } => Exit::TryAgain,
        ClientError::Refused(refusal) => exit_of_refusal(refusal),
        ClientError::Protocol { .. } | ClientError::Versions { .. } => Exit::Protocol,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_end_with_the_status_of_the_contract() {
        let exit = |code: ErrorCode| Failure::from(code.refuse("x")).exit().code();
        assert_eq!(exit(ErrorCode::NoSuchQueue), 66);
        assert_eq!(exit(ErrorCode::QueueExists), 73);
        assert_eq!(exit(ErrorCode::QueueFull), 75);
        assert_eq!(exit(ErrorCode::Closing), 75);
        assert_eq!(exit(ErrorCode::ReceiptExpired), 1);
        assert_eq!(exit(ErrorCode::ReceiptInvalid), 65);
        assert_eq!(exit(ErrorCode::NoSuchMessage), 1);
        assert_eq!(exit(ErrorCode::MessageLeased), 75);
        assert_eq!(exit(ErrorCode::MessageTooLarge), 65);
        assert_eq!(exit(ErrorCode::StepTooLarge), 65);
        assert_eq!(exit(ErrorCode::NoDeadLetter), 65);
        assert_eq!(exit(ErrorCode::PriorityOnOrdered), 65);
        assert_eq!(exit(ErrorCode::QueueNotEmpty), 1);
        assert_eq!(exit(ErrorCode::AttributesConflict), 2);
        assert_eq!(exit(ErrorCode::Internal), 70);
        assert_eq!(exit(ErrorCode::UnknownVerb), 76);
    }

    #[test]
    fn code_of_a_newer_server_ends_by_its_class() {
        let mut refusal = ErrorCode::Unknown(999).refuse("x");
        refusal.class = Class::TryAgain;
        assert_eq!(Failure::from(refusal.clone()).exit(), Exit::TryAgain);
        refusal.class = Class::NotAllowed;
        assert_eq!(Failure::from(refusal).exit(), Exit::NotAllowed);
    }

    #[test]
    fn how_far_it_got_keeps_the_status_of_the_cause() {
        let failure = Failure::from(ErrorCode::QueueFull.refuse("full")).after("2 confirmed");
        assert_eq!(failure.exit(), Exit::TryAgain);
        assert_eq!(failure.code(), "queue_full");
        assert!(failure.retryable());
        assert_eq!(failure.to_string(), "2 confirmed: full; retry later");
    }
}
