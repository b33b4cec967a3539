//! What can go wrong in an engine, in terms a volunteer's page can act on. Wrong bytes from the network are
//! [`crate::tensors::TensorError`], not this.

/// Why a computation gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// No adapter, or none that gives a device with the limits asked for. The CPU path remains.
    #[error("no usable adapter: {0}")]
    NoAdapter(String),
    /// The device went away; a new engine may work. The unit is to be given back.
    #[error("the device was lost: {0}")]
    DeviceLost(String),
    #[error("the device is out of memory: {0}")]
    OutOfMemory(String),
    /// A call the device refused: a fault of this program or of the driver.
    #[error("the device refused a call: {0}")]
    Validation(String),
    /// A kernel gave a wrong known answer; the backend must not be used.
    #[error("kernel {kernel} failed its self-test: {detail}")]
    SelfTest { kernel: String, detail: String },
    /// The work needs more memory than the device or this build allows.
    #[error("the work needs {bytes} bytes, at most {most} are allowed")]
    TooLarge { bytes: u64, most: u64 },
    /// One tensor of the work is past what the device binds, whatever memory it has.
    #[error("the work needs {total} bytes, {bytes} of them in one buffer where the device takes {most}")]
    BufferTooLarge { total: u64, bytes: u64, most: u64 },
    /// The model has a layer, or the work an optimiser, that this build has no kernels for.
    #[error("this build cannot train {0}")]
    Unsupported(String),
    /// [`crate::Control::stop`] was called.
    #[error("stopped")]
    Stopped,
    /// What was handed in does not fit the work's description.
    #[error("{0}")]
    Input(String),
    /// The computation left the finite numbers, for instance by a learning rate too large.
    #[error("the result is not finite: {0}")]
    NotFinite(String),
}

impl EngineError {
    /// A stable code for messages across the worker boundary.
    pub fn code(&self) -> &'static str {
        match self {
            EngineError::NoAdapter(_) => "no_adapter",
            EngineError::DeviceLost(_) => "device_lost",
            EngineError::OutOfMemory(_) => "out_of_memory",
            EngineError::Validation(_) => "validation",
            EngineError::SelfTest { .. } => "self_test",
            EngineError::TooLarge { .. } | EngineError::BufferTooLarge { .. } => "too_large",
            EngineError::Unsupported(_) => "unsupported",
            EngineError::Stopped => "stopped",
            EngineError::Input(_) => "input",
            EngineError::NotFinite(_) => "not_finite",
        }
    }

    /// Whether the same unit may succeed on a fresh device.
    pub fn retryable(&self) -> bool {
        matches!(self, EngineError::DeviceLost(_) | EngineError::OutOfMemory(_))
    }
}
