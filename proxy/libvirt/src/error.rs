use std::time::Duration;

/// Why a call failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// libvirt answered with an error.
    #[error("{message}")]
    Libvirt {
        /// The call of the C library.
        call: &'static str,
        /// libvirt's number of the error.
        code: Code,
        /// libvirt's number of the part that reports it.
        domain: i32,
        /// libvirt's text.
        message: String,
    },
    /// No answer came in time. The connection counts as dead from then on.
    #[error("libvirt did not answer {call} within {after:?}")]
    Timeout {
        /// The call of the C library.
        call: &'static str,
        /// The limit.
        after: Duration,
    },
    /// An earlier call on this connection was not answered, so no other was made.
    #[error("the connection to libvirt is dead: an earlier call was not answered")]
    Dead,
    /// A text for libvirt holds a zero byte.
    #[error("{what} holds a zero byte")]
    Zero {
        /// Which text.
        what: &'static str,
    },
    /// This process could not make a thread for the call.
    #[error("no thread can be made to call libvirt: {0}")]
    Thread(String),
}

impl Error {
    /// libvirt's number of the error, if it answered.
    #[must_use]
    pub const fn code(&self) -> Option<Code> {
        match self {
            Self::Libvirt { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether libvirt answered with this code.
    #[must_use]
    pub fn is(&self, code: Code) -> bool {
        self.code() == Some(code)
    }

    /// Whether the connection is of no more use: broken, or not answering.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        match self {
            Self::Timeout { .. } | Self::Dead => true,
            Self::Libvirt { code, message, .. } => {
                // A daemon that goes away ends calls with an error of the transport; one that is gone refuses them.
                let broken =
                    ["end of file while reading", "Cannot write data", "Cannot read data", "client socket is closed"];
                matches!(*code, Code::INVALID_CONN | Code::RPC)
                    || (matches!(*code, Code::INTERNAL_ERROR | Code::SYSTEM_ERROR)
                        && broken.iter().any(|text| message.contains(text)))
            }
            _ => false,
        }
    }
}

/// libvirt's number of an error. Those that callers tell apart have a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Code(pub i32);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $theirs:ident;)*) => {
        impl Code {
            $($(#[$doc])* pub const $name: Self = Self(virt_sys::$theirs as i32);)*
        }
    };
}

codes! {
    /// Something unexpected inside libvirt.
    INTERNAL_ERROR = VIR_ERR_INTERNAL_ERROR;
    /// The driver has no such call.
    NO_SUPPORT = VIR_ERR_NO_SUPPORT;
    /// No connection could be made.
    NO_CONNECT = VIR_ERR_NO_CONNECT;
    /// The connection is of no use.
    INVALID_CONN = VIR_ERR_INVALID_CONN;
    /// An argument makes no sense.
    INVALID_ARG = VIR_ERR_INVALID_ARG;
    /// The operation failed.
    OPERATION_FAILED = VIR_ERR_OPERATION_FAILED;
    /// The connection may not do that.
    OPERATION_DENIED = VIR_ERR_OPERATION_DENIED;
    /// A call of the operating system failed.
    SYSTEM_ERROR = VIR_ERR_SYSTEM_ERROR;
    /// The transport failed.
    RPC = VIR_ERR_RPC;
    /// There is no such domain.
    NO_DOMAIN = VIR_ERR_NO_DOMAIN;
    /// The login failed.
    AUTH_FAILED = VIR_ERR_AUTH_FAILED;
    /// Nobody was there to log in.
    AUTH_CANCELLED = VIR_ERR_AUTH_CANCELLED;
    /// No way to log in is there.
    AUTH_UNAVAILABLE = VIR_ERR_AUTH_UNAVAILABLE;
    /// Access rules forbid it.
    ACCESS_DENIED = VIR_ERR_ACCESS_DENIED;
    /// Not possible in this state.
    OPERATION_INVALID = VIR_ERR_OPERATION_INVALID;
    /// The configuration does not support it.
    CONFIG_UNSUPPORTED = VIR_ERR_CONFIG_UNSUPPORTED;
    /// libvirt waited in vain for something of its own.
    OPERATION_TIMEOUT = VIR_ERR_OPERATION_TIMEOUT;
    /// There is no such snapshot.
    NO_DOMAIN_SNAPSHOT = VIR_ERR_NO_DOMAIN_SNAPSHOT;
    /// The argument is not supported.
    ARGUMENT_UNSUPPORTED = VIR_ERR_ARGUMENT_UNSUPPORTED;
    /// The operation is not supported.
    OPERATION_UNSUPPORTED = VIR_ERR_OPERATION_UNSUPPORTED;
    /// The guest agent does not answer.
    AGENT_UNRESPONSIVE = VIR_ERR_AGENT_UNRESPONSIVE;
    /// The guest agent answered something else.
    AGENT_UNSYNCED = VIR_ERR_AGENT_UNSYNCED;
    /// There is no such checkpoint.
    NO_DOMAIN_CHECKPOINT = VIR_ERR_NO_DOMAIN_CHECKPOINT;
    /// There is no backup job.
    NO_DOMAIN_BACKUP = VIR_ERR_NO_DOMAIN_BACKUP;
    /// A checkpoint cannot be used: its bitmap is missing or broken.
    CHECKPOINT_INCONSISTENT = VIR_ERR_CHECKPOINT_INCONSISTENT;
    /// The guest agent did not answer a command in time.
    AGENT_COMMAND_TIMEOUT = VIR_ERR_AGENT_COMMAND_TIMEOUT;
    /// The guest agent refused a command.
    AGENT_COMMAND_FAILED = VIR_ERR_AGENT_COMMAND_FAILED;
}
