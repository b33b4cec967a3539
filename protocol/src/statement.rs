//! What volunteers sign: consent, results, and that one key takes another's place.

use minicbor::{Decode, Encode};

use crate::category::Category;
use crate::ids::{BlobHash, JobId, KeyId, LeaseId, TreeHash, UnitId};
use crate::limits;

/// A visitor's consent, signed by the visitor's key. Opens a session.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Consent {
    #[n(0)]
    pub version: u32,
    /// The coordinator's key: a statement for one coordinator opens nothing at another.
    #[n(1)]
    pub audience: KeyId,
    /// The nonce `GET /v1/info` gave out; good for one session.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub nonce: Vec<u8>,
    /// Origin of the page the visitor pressed Start on, or `native` for a terminal.
    #[n(3)]
    pub origin: String,
    /// Site that embeds the page; empty on the coordinator's own page.
    #[n(4)]
    pub site: String,
    /// The one job agreed to; with none, and no `category`, any job the operator approved.
    #[n(5)]
    pub job: Option<JobId>,
    /// Share of the device agreed to, in percent, 1 to 100.
    #[n(6)]
    pub duty_percent: u32,
    /// Download plus upload agreed to, in bytes; 0 means no bound.
    #[n(7)]
    pub data_bytes_max: u64,
    #[n(8)]
    pub terms_version: u32,
    #[n(9)]
    pub issued_ms: u64,
    #[n(10)]
    pub expires_ms: u64,
    /// The kind of jobs agreed to, where no one job is.
    #[n(11)]
    pub category: Option<Category>,
}

/// That a new key takes an old one's place and has its credit from then on; each of the two signs it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Rotation {
    #[n(0)]
    pub version: u32,
    /// The coordinator's key: a statement for one coordinator changes nothing at another.
    #[n(1)]
    pub audience: KeyId,
    /// A nonce `GET /v1/info` gave out: an old statement that was never used changes nothing later.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub nonce: Vec<u8>,
    #[n(3)]
    pub old: KeyId,
    #[n(4)]
    pub new: KeyId,
}

/// A result, signed by the key that held the lease.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ResultStatement {
    #[n(0)]
    pub version: u32,
    #[n(1)]
    pub job: JobId,
    #[n(2)]
    pub unit: UnitId,
    #[n(3)]
    pub lease: LeaseId,
    /// SHA-256 of the signed unit manifest as received.
    #[n(4)]
    pub manifest: BlobHash,
    #[n(5)]
    pub outputs: Vec<Output>,
    #[n(6)]
    pub device: DeviceClass,
    #[n(7)]
    pub timings: Timings,
    /// Loss before each inner step, in millionths; empty for a matmul unit.
    #[n(8)]
    pub losses_micro: Vec<u64>,
    /// What the device's products ran on; none where there is one way to compute them.
    #[n(9)]
    pub kernels: Option<Kernels>,
    /// Commits to the states that training came through; none where the manifest asks for no commitment, or the device
    /// does not give the same bits twice.
    #[n(10)]
    pub states: Option<States>,
}

/// A commitment to the training states of a unit: see `protocol::states`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct States {
    /// As the manifest says.
    #[n(0)]
    pub every: u32,
    /// Over the states after each `every` steps and after the last.
    #[n(1)]
    pub root: TreeHash,
}

/// The kernels of a unit's products: with these and the device another run gives the same bits.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Kernels {
    /// Names the kernels' texts, at most [`crate::limits::TEXT_BYTES_MAX`] bytes.
    #[n(0)]
    pub version: String,
    /// At most [`crate::limits::KERNELS_COUNT_MAX`].
    #[n(1)]
    pub products: Vec<ProductKernel>,
}

/// Which kernel computed the products `[m, k]` by `[k, n]` of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ProductKernel {
    #[n(0)]
    pub m: u32,
    #[n(1)]
    pub k: u32,
    #[n(2)]
    pub n: u32,
    /// Whether the left factor is stored transposed.
    #[n(3)]
    pub transposed_a: bool,
    /// Whether the right factor is.
    #[n(4)]
    pub transposed_b: bool,
    /// At most [`crate::limits::TEXT_BYTES_MAX`] bytes.
    #[n(5)]
    pub kernel: String,
}

impl ResultStatement {
    /// The first field that is longer than allowed.
    pub fn overlong(&self) -> Option<&'static str> {
        let long = |text: &str| text.len() > limits::TEXT_BYTES_MAX;
        let kernels = self.kernels.as_ref();
        if long(&self.device.adapter) {
            return Some("device.adapter");
        }
        if kernels.is_some_and(|k| k.products.len() > limits::KERNELS_COUNT_MAX) {
            return Some("kernels.products");
        }
        kernels.is_some_and(|k| long(&k.version) || k.products.iter().any(|p| long(&p.kernel))).then_some("kernels")
    }
}

/// One uploaded blob of a result.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Output {
    #[n(0)]
    pub name: String,
    #[n(1)]
    pub hash: BlobHash,
    #[n(2)]
    pub bytes: u64,
}

/// Where a result was computed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct DeviceClass {
    #[n(0)]
    pub backend: Backend,
    /// Adapter as the platform names it, at most [`crate::limits::TEXT_BYTES_MAX`] bytes; may be empty.
    #[n(1)]
    pub adapter: String,
}

/// The engine's backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cfg_attr(feature = "json", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[cbor(index_only)]
pub enum Backend {
    /// WebGPU in a tab.
    #[n(0)]
    Webgpu,
    /// wasm SIMD in a tab.
    #[n(1)]
    Wasm,
    /// wgpu on Vulkan, Metal or DX12.
    #[n(2)]
    NativeGpu,
    /// Native SIMD.
    #[n(3)]
    NativeCpu,
    /// An independent client.
    #[n(4)]
    Other,
}

impl Backend {
    /// The name used in the store, JSON, metrics and on the page.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Webgpu => "webgpu",
            Backend::Wasm => "wasm",
            Backend::NativeGpu => "native_gpu",
            Backend::NativeCpu => "native_cpu",
            Backend::Other => "other",
        }
    }
}

/// Milliseconds spent on a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Timings {
    #[n(0)]
    pub fetch_ms: u32,
    #[n(1)]
    pub compute_ms: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_and_list_of_a_result_is_bounded() {
        let good = || ResultStatement {
            version: 1,
            job: JobId(1),
            unit: UnitId(1),
            lease: LeaseId(1),
            manifest: BlobHash([0; 32]),
            outputs: Vec::new(),
            device: DeviceClass { backend: Backend::Webgpu, adapter: "a".repeat(limits::TEXT_BYTES_MAX) },
            timings: Timings { fetch_ms: 0, compute_ms: 0 },
            losses_micro: Vec::new(),
            kernels: Some(Kernels { version: String::new(), products: vec![product(); limits::KERNELS_COUNT_MAX] }),
            states: None,
        };
        fn product() -> ProductKernel {
            ProductKernel { m: 1, k: 1, n: 1, transposed_a: false, transposed_b: false, kernel: "matmul".to_owned() }
        }
        fn kernels(statement: &mut ResultStatement) -> &mut Kernels {
            statement.kernels.as_mut().expect("it was given some")
        }
        let long = || "a".repeat(limits::TEXT_BYTES_MAX + 1);
        let changed = |change: &dyn Fn(&mut ResultStatement)| {
            let mut statement = good();
            change(&mut statement);
            statement.overlong()
        };
        assert_eq!(good().overlong(), None);
        assert_eq!(changed(&|s| s.device.adapter = long()), Some("device.adapter"));
        assert_eq!(changed(&|s| kernels(s).version = long()), Some("kernels"));
        assert_eq!(changed(&|s| kernels(s).products[1].kernel = long()), Some("kernels"));
        assert_eq!(changed(&|s| kernels(s).products.push(product())), Some("kernels.products"));
    }
}
