//! Opening an adapter and its device, and running calls on it so that what it refuses becomes an error. One engine is
//! one device.

use std::future::Future;
use std::sync::Mutex;

use futures::future::{Either, join, select};
use manyhands_protocol::limits;
use manyhands_protocol::statement::{Backend, DeviceClass};
use manyhands_protocol::work::Dtype;
use manyhands_shaders::matmul::{Shape, Transposed, Variant};
use manyhands_shaders::{ENABLE_SUBGROUPS, Kernel};

use super::choice::Choices;
use super::fault::{Fault, engine_error};
use super::pipelines::{Pipeline, PipelineKey};
use crate::engine::EngineError;
use crate::plan::{Matmul, Op, Sharing};

/// Which adapter to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AdapterChoice {
    /// The fastest there is, whatever it is.
    #[default]
    Fastest,
    /// Only a software adapter: SwiftShader, lavapipe.
    Software,
}

/// How to open a [`GpuEngine`].
#[derive(Debug, Clone, Default)]
pub struct GpuOptions {
    pub adapter: AdapterChoice,
    /// Name of a kernel and WGSL to compile in its place, so that a test can see the self-test fail.
    pub replaced_kernel: Option<(&'static str, String)>,
    /// Runs the kernels made for devices, whatever the adapter is, so that a test sees them.
    pub as_device: bool,
    /// Leaves the device without subgroups, so that a test sees the kernels that do without.
    pub without_subgroups: bool,
    /// Asks for no more than WebGPU's default limits, so that a test can see what they hold.
    pub default_limits: bool,
}

/// A device and what was compiled for it.
pub struct GpuEngine {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) limits: wgpu::Limits,
    pub(super) pipelines: Mutex<Vec<(PipelineKey, Pipeline)>>,
    pub(super) fault: Fault,
    /// What passed its self-test here.
    tested: Mutex<Vec<PipelineKey>>,
    pub(super) choices: Mutex<Choices>,
    pub(super) info: wgpu::AdapterInfo,
    /// Whether kernels may exchange values within quads.
    subgroups: bool,
    options: GpuOptions,
}

impl GpuEngine {
    /// Opens a device at WebGPU's default limits, with buffers as large as the adapter allows.
    pub async fn open(options: GpuOptions) -> Result<Self, EngineError> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        #[cfg(all(target_arch = "wasm32", feature = "web"))]
        let enabled = crate::web::next_device_with_subgroups();
        let adapter = instance
            .request_adapter(&wgpu::RequestAdapterOptions {
                power_preference: wgpu::PowerPreference::HighPerformance,
                force_fallback_adapter: options.adapter == AdapterChoice::Software,
                ..Default::default()
            })
            .await
            .map_err(|e| EngineError::NoAdapter(e.to_string()))?;
        #[cfg_attr(not(all(target_arch = "wasm32", feature = "web")), expect(unused_mut))]
        let mut info = adapter.get_info();
        #[cfg(all(target_arch = "wasm32", feature = "web"))]
        if info.name.is_empty() {
            let software = options.adapter == AdapterChoice::Software;
            info.name = crate::web::adapter_name(software).await.unwrap_or_default();
        }
        let defaults = wgpu::Limits::defaults();
        let most = if options.default_limits { defaults.clone() } else { adapter.limits() };
        let required_limits = wgpu::Limits {
            max_buffer_size: most.max_buffer_size,
            max_storage_buffer_binding_size: most.max_storage_buffer_binding_size,
            ..defaults
        };
        let wanted = if options.without_subgroups { wgpu::Features::empty() } else { wgpu::Features::SUBGROUP };
        let required_features = adapter.features() & wanted;
        let (device, queue) = adapter
            .request_device(&wgpu::DeviceDescriptor {
                label: Some("manyhands"),
                required_features,
                required_limits: required_limits.clone(),
                ..Default::default()
            })
            .await
            .map_err(|e| EngineError::NoAdapter(e.to_string()))?;
        let subgroups = required_features.contains(wgpu::Features::SUBGROUP);
        #[cfg(all(target_arch = "wasm32", feature = "web"))]
        let subgroups = subgroups || enabled.get();
        // Quads lie within a subgroup.
        let subgroups = subgroups && info.subgroup_min_size >= 4 && !options.without_subgroups;
        let fault = Fault::default();
        let lost = fault.clone();
        device.set_device_lost_callback(move |reason, message| {
            lost.raise(EngineError::DeviceLost(format!("{reason:?} {message}")));
        });
        let uncaptured = fault.clone();
        device.on_uncaptured_error(std::sync::Arc::new(move |error| uncaptured.raise(engine_error(error))));
        Ok(Self {
            device,
            queue,
            limits: required_limits,
            pipelines: Mutex::default(),
            fault,
            tested: Mutex::default(),
            choices: Mutex::default(),
            info,
            subgroups,
            options,
        })
    }

    pub fn device_class(&self) -> DeviceClass {
        let backend = if self.info.backend == wgpu::Backend::BrowserWebGpu { Backend::Webgpu } else { Backend::NativeGpu };
        let mut adapter = [self.info.name.as_str(), &self.info.driver, &self.info.driver_info].join(" ");
        adapter.truncate(adapter.floor_char_boundary(limits::TEXT_BYTES_MAX));
        DeviceClass { backend, adapter: adapter.trim().to_owned() }
    }

    pub fn is_software(&self) -> bool {
        const SWIFTSHADER: &[u8] = b"swiftshader";
        let mut parts = self.info.name.as_bytes().windows(SWIFTSHADER.len());
        self.info.device_type == wgpu::DeviceType::Cpu || parts.any(|part| part.eq_ignore_ascii_case(SWIFTSHADER))
    }

    /// The pipelines of these calls that have not passed their self-test on this device, each with a call of it. Products name
    /// their variant then.
    pub(crate) fn untested(&self, ops: &[Op]) -> Vec<(PipelineKey, Op)> {
        let tested = self.tested.lock().expect("no code panics while it holds this lock");
        let mut new: Vec<(PipelineKey, Op)> = Vec::new();
        for op in ops {
            let key = PipelineKey::of(&self.call(op));
            if !tested.contains(&key) && !new.iter().any(|(other, _)| *other == key) {
                let named = |product: Matmul| Matmul { variant: Some(self.variant(&product)), ..product };
                new.push((key, if let Op::Matmul(product) = *op { Op::Matmul(named(product)) } else { *op }));
            }
        }
        new
    }

    pub(crate) fn passed(&self, mut pipelines: Vec<PipelineKey>) {
        self.tested.lock().expect("no code panics while it holds this lock").append(&mut pipelines);
    }

    /// Destroys the device, as a crash of its driver would, so that a test can see what follows.
    pub fn destroy(&self) {
        self.device.destroy();
    }

    /// The adapter by itself, and what drives it where the browser does not.
    pub fn adapter(&self) -> (String, String) {
        let told = [self.info.driver.as_str(), &self.info.driver_info].join(" ");
        (format!("{} {:x}:{:x}", self.info.name, self.info.vendor, self.info.device), told.trim().to_owned())
    }

    /// Whether the device has what a kernel needs.
    fn runs(&self, kernel: &Kernel) -> bool {
        self.subgroups || !kernel.needs_subgroups()
    }

    /// Whether a variant of the product may run here: the device has what it needs, and it does the device no harm.
    pub fn offers(&self, variant: Variant) -> bool {
        self.runs(variant.kernel()) && (variant.spares_software() || !self.is_browsers_software())
    }

    fn is_browsers_software(&self) -> bool {
        self.is_software() && self.info.backend == wgpu::Backend::BrowserWebGpu
    }

    /// How calls that are no products share their work here: as was chosen, else as usual.
    pub(crate) fn sharing(&self) -> Sharing {
        self.chosen_sharing().unwrap_or_else(|| self.usual_sharing())
    }

    /// Whether the device has what all kernels of this sharing need, and is not harmed by them: those for devices have barriers.
    pub(crate) fn offers_sharing(&self, sharing: Sharing) -> bool {
        match sharing {
            Sharing::Nothing => true,
            Sharing::Quads => self.subgroups,
            Sharing::Workgroups => self.subgroups && (self.options.as_device || !self.is_software()),
        }
    }

    /// Which kernels are the faster ones where nothing was measured. SwiftShader's subgroups are one quad.
    pub(crate) fn usual_sharing(&self) -> Sharing {
        match self.subgroups {
            false => Sharing::Nothing,
            true if self.options.as_device || !self.is_software() => Sharing::Workgroups,
            true => Sharing::Quads,
        }
    }

    fn prefers_quads(&self) -> bool {
        self.usual_sharing() == Sharing::Quads
    }

    /// The variant of the product that a call runs on.
    ///
    /// # Panics
    /// Where the call names a variant that does not take its product: kernels rely on that to stay inside their buffers.
    pub(super) fn variant(&self, op: &Matmul) -> Variant {
        let chosen = op.variant.or_else(|| self.chosen(op.shape, op.transposed, Dtype::F32));
        let variant = chosen.unwrap_or_else(|| self.usual(op.shape, op.transposed));
        assert!(variant.takes(op.shape, op.transposed), "{variant:?} does not take {:?} {:?}", op.shape, op.transposed);
        variant
    }

    /// The variant that runs where nothing was measured. Without subgroups a browser's software adapter runs the scalar kernel
    /// as fast as the vec4 one and compiles it in half the time.
    pub(crate) fn usual(&self, shape: Shape, transposed: Transposed) -> Variant {
        match self.is_browsers_software() {
            _ if self.prefers_quads() && Variant::QuadVec2.takes(shape, transposed) => Variant::QuadVec2,
            _ if self.prefers_quads() => Variant::Quad,
            true => Variant::Blocked,
            false => Variant::default_for(shape, transposed),
        }
    }

    /// The WGSL to compile for a kernel. Natively that is naga, which knows subgroups but not the directive that enables
    /// them (https://github.com/gfx-rs/wgpu/issues/5555).
    pub(super) fn wgsl<'a>(&'a self, kernel: &'a Kernel) -> &'a str {
        let wgsl = match &self.options.replaced_kernel {
            Some((name, wgsl)) if *name == kernel.name => wgsl,
            _ => kernel.wgsl,
        };
        if cfg!(target_arch = "wasm32") { wgsl } else { wgsl.strip_prefix(ENABLE_SUBGROUPS).unwrap_or(wgsl) }
    }

    /// Makes device objects under error scopes: what the device refuses comes back as an error.
    pub(super) fn scoped<T, F: FnOnce() -> T>(&self, make: F) -> impl Future<Output = Result<T, EngineError>> + use<'_, T, F> {
        // Scopes belong to this thread, so they are closed before anything is awaited.
        let filters = [wgpu::ErrorFilter::Validation, wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Internal];
        let [validation, memory, internal] = filters.map(|filter| self.device.push_error_scope(filter));
        let made = make();
        let caught = [internal, memory, validation].map(wgpu::ErrorScopeGuard::pop);
        async move {
            let mut first = None;
            for error in caught {
                first = first.or(error.await);
            }
            // A lost device refuses calls before its loss is told of: natively that takes a turn of the device.
            #[cfg(not(target_arch = "wasm32"))]
            if first.is_some() {
                let _ = self.device.poll(wgpu::PollType::Poll);
            }
            self.fault.check()?;
            first.map_or(Ok(made), |error| Err(engine_error(error)))
        }
    }

    /// Submits commands and waits until they are done.
    pub(super) async fn submit(&self, commands: wgpu::CommandBuffer) -> Result<(), EngineError> {
        self.submit_and(commands, |done| self.queue.on_submitted_work_done(done)).await
    }

    /// Submits commands and waits for a callback that follows them. Both answers are asked for at once: in a browser each
    /// is a message to another process and back.
    pub(super) async fn submit_and(&self, commands: wgpu::CommandBuffer, ask: impl FnOnce(Done)) -> Result<(), EngineError> {
        let submitted = self.scoped(|| self.queue.submit([commands]));
        let (submitted, done) = join(submitted, self.wait(ask)).await;
        submitted.map(drop)?;
        done
    }

    /// Waits for a callback of the device, or for the device's end. Natively the device is driven from here.
    pub(super) async fn wait(&self, ask: impl FnOnce(Done)) -> Result<(), EngineError> {
        let (sender, receiver) = futures::channel::oneshot::channel();
        ask(Box::new(move || {
            // Nobody listens any more where the computation was dropped.
            let _ = sender.send(());
        }));
        #[cfg(not(target_arch = "wasm32"))]
        if let Err(error) = self.device.poll(wgpu::PollType::wait_indefinitely()) {
            self.fault.raise(EngineError::DeviceLost(error.to_string()));
        }
        match select(receiver, self.fault.raised()).await {
            Either::Left((Ok(()), _)) => self.fault.check(),
            Either::Left((Err(_), _)) => {
                self.fault.check()?;
                Err(EngineError::DeviceLost("a callback was dropped".to_owned()))
            }
            Either::Right(_) => self.fault.check(),
        }
    }
}

/// A buffer that gives its memory back when it goes. In a browser a dropped handle alone waits for the garbage
/// collector, which knows nothing of device memory.
pub(super) struct Memory(pub wgpu::Buffer);

impl Drop for Memory {
    fn drop(&mut self) {
        self.0.destroy();
    }
}

impl std::ops::Deref for Memory {
    type Target = wgpu::Buffer;

    fn deref(&self) -> &wgpu::Buffer {
        &self.0
    }
}

/// A callback to hand to the device.
pub type Done = Box<dyn FnOnce() + Send + 'static>;
