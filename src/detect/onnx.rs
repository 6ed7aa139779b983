//! ONNX Runtime by way of ort: the only file that names it.
//!
//! The library is loaded at run time from its own file, so that the build needs no copy of it and a
//! box can be given another one (OpenVINO's, say) without rebuilding. One session uses one thread
//! and does not spin: more sessions use a small box's cores better than more threads per session.
//!
//! # What a session is set to, and why
//!
//! Library 1.32.0 and the shipped networks, when they took floats. CPU time: the median of 240 runs of each setting, in
//! turns in one process, over the default's, for a picture of 512x288 (6.1 ms), a region of 224x224 (2.5 ms), a head (1.4 ms) and a square
//! for smoking (1.2 ms). Memory: of three workers' sessions, nine in all, without the library's own 22 MB.
//!
//! | setting | CPU time | memory | taken |
//! | --- | --- | --- | --- |
//! | memory arena and memory pattern on (the library's default) | 1 | 150 MB | yes |
//! | no arena | 0.997, 1.008, 1.004, 1.032 | 99 MB | no, see below |
//! | no pattern | 1.007, 1.018, 0.999, 0.993 | 136 MB | no |
//! | neither | 1.022, 1.063, 1.022, 1.050 | 102 MB | no |
//! | two threads | 1.34, 1.46, 1.44, 1.51, and done after 0.90, 1.05, 0.97, 1.02 of the time | 149 MB | no |
//! | packed weights shared between the sessions of a network | as the default | 153 MB | no: the optimiser lays the weights out for each session before packing, and nothing is left to share |
//!
//! Without the arena a run takes its memory from the heap in one block of several MB. That costs nothing only if the
//! heap keeps such blocks; a heap that hands large blocks back to the system (`base::heap`) makes it 1.40, 1.35, 1.44
//! and 1.70 times. Of the two the heap's way saves more: a daemon with eight cameras and one worker took 245 MB less
//! its rings with the first and 222 with the second; with all three models 273 and 260.
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::environment::Environment;
use ort::ep::ExecutionProviderDispatch;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, SessionInputValue};
use ort::value::{Tensor, TensorElementType};

use super::card::{Card, Fit, LoadedModel, ValueType};
use super::preprocess::TensorMut;
use crate::base::geometry::SizePx;
use crate::base::laps::{Part, lap};

/// Why the runtime or a network could not be used.
#[derive(Debug, thiserror::Error)]
pub enum OnnxError {
    /// No library at the places we looked.
    #[error(
        "ONNX Runtime's library was not found; looked at {}. Run `make setup`, or set detect.onnxruntime or ORT_DYLIB_PATH to libonnxruntime.so",
        searched.join(", ")
    )]
    NoRuntime {
        /// Where we looked.
        searched: Vec<String>,
    },
    /// The library is there but cannot be used.
    #[error(
        "ONNX Runtime's library {path} cannot be used: {why}. Run `make setup`, or set detect.onnxruntime or ORT_DYLIB_PATH to version 1.17 or newer for this machine"
    )]
    BadRuntime {
        /// Which library.
        path: String,
        /// The loader's reason.
        why: String,
    },
    /// The library cannot run networks there.
    #[error(
        "ONNX Runtime's library {path} cannot run models on {}: {why}. Name a library that was built for it as detect.onnxruntime, or set detect.provider = \"cpu\"",
        provider.word()
    )]
    NoProvider {
        /// Where.
        provider: Provider,
        /// Which library.
        path: String,
        /// The library's reason.
        why: String,
    },
    /// The network does not load.
    #[error("model {model}: the network does not load: {why}")]
    BadNetwork {
        /// From the card.
        model: String,
        /// The runtime's reason.
        why: String,
    },
    /// The network's input or output is not what its card says.
    #[error("model {model}: {what} is {found}, its card says {expected}")]
    ShapeMismatch {
        /// From the card.
        model: String,
        /// `input` or `output`.
        what: &'static str,
        /// What the network has.
        found: String,
        /// What the card has.
        expected: String,
    },
    /// One inference failed.
    #[error("model {model}: inference failed: {why}")]
    Inference {
        /// From the card.
        model: String,
        /// The runtime's reason.
        why: String,
    },
}

/// What runs the networks (ONNX Runtime's execution providers). Those but the CPU are cargo features: they
/// cost nothing, for the library that is loaded at run time has them or has not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Provider {
    /// The CPU, by ONNX Runtime's own kernels.
    #[default]
    Cpu,
    /// Intel's CPUs, GPUs and NPUs.
    #[cfg(feature = "openvino")]
    OpenVino,
    /// NVIDIA's GPUs.
    #[cfg(feature = "cuda")]
    Cuda,
}

impl Provider {
    /// Those that this program was built with.
    pub const ALL: &'static [Self] = &[
        Self::Cpu,
        #[cfg(feature = "openvino")]
        Self::OpenVino,
        #[cfg(feature = "cuda")]
        Self::Cuda,
    ];

    /// The word in the config and in the site's status.
    pub fn word(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            #[cfg(feature = "openvino")]
            Self::OpenVino => "openvino",
            #[cfg(feature = "cuda")]
            Self::Cuda => "cuda",
        }
    }

    /// What the library is asked for; nothing for the CPU. One thread, as everywhere; never silently another
    /// provider.
    fn dispatch(self) -> Option<ExecutionProviderDispatch> {
        let provider = match self {
            Self::Cpu => return None,
            #[cfg(feature = "openvino")]
            Self::OpenVino => ort::ep::OpenVINO::default().with_num_threads(1).build(),
            #[cfg(feature = "cuda")]
            Self::Cuda => ort::ep::CUDA::default().build(),
        };
        Some(provider.error_on_failure())
    }
}

/// The loaded library. Cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    environment: Environment,
    /// What runs the networks.
    pub provider: Provider,
    /// Where it was loaded from.
    pub path: PathBuf,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Runtime").field(&self.path).finish()
    }
}

/// File name below each place that is searched; `make setup` puts it under the checkout.
const RELATIVE: &str = ".runtime/onnxruntime/libonnxruntime.so";
/// Where a package would put it.
const INSTALLED: &str = "/usr/lib/mingchu/libonnxruntime.so";

fn candidates() -> Vec<PathBuf> {
    let mut places = vec![PathBuf::from(RELATIVE)];
    if let Ok(exe) = std::env::current_exe() {
        places.extend(exe.ancestors().skip(1).map(|dir| dir.join(RELATIVE)));
    }
    places.push(INSTALLED.into());
    places
}

impl Runtime {
    /// Loads the library: from `explicit` or `ORT_DYLIB_PATH` if one of them is set, and then from
    /// nowhere else; otherwise from the first usual place that has it. The process keeps the first
    /// library it loads.
    ///
    /// # Errors
    /// [`OnnxError::NoRuntime`] or [`OnnxError::BadRuntime`].
    pub fn load(explicit: Option<&Path>) -> Result<Self, OnnxError> {
        // ort allows one environment per process; a second site (tests, demo) shares it.
        static LOADED: Mutex<Option<Runtime>> = Mutex::new(None);
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let from_env = || std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from);
        let path = match explicit.map(Path::to_owned).or_else(from_env) {
            Some(path) if path.is_file() => path,
            Some(path) => {
                return Err(OnnxError::NoRuntime {
                    searched: vec![path.display().to_string()],
                });
            }
            None => candidates()
                .into_iter()
                .find(|p| p.is_file())
                .ok_or_else(|| {
                    let beside = format!("{RELATIVE} here and beside the program");
                    OnnxError::NoRuntime {
                        searched: vec![beside, INSTALLED.to_owned()],
                    }
                })?,
        };
        if let Some(runtime) = &*loaded {
            return Ok(runtime.clone());
        }
        let bad = |why: String| OnnxError::BadRuntime {
            path: path.display().to_string(),
            why,
        };
        let builder = ort::init_from(&path).map_err(|e| bad(e.to_string()))?;
        let environment = builder
            .with_name("mingchu")
            .with_telemetry(false)
            .build()
            .map_err(|e| bad(e.to_string()))?;
        let provider = Provider::Cpu;
        let loaded = loaded.insert(Self {
            environment,
            provider,
            path,
        });
        Ok(loaded.clone())
    }

    /// The same library with its networks on `provider`. Whether it has it shows when the first one loads.
    #[must_use]
    pub fn on(self, provider: Provider) -> Self {
        Self { provider, ..self }
    }

    /// The engine's environment, of which a process has only one: for a measurement of the bare
    /// engine beside ours.
    #[must_use]
    pub fn environment(&self) -> &Environment {
        &self.environment
    }
}

/// Pictures in one run where a network's batch is free. What a picture then costs, of what it costs alone, by
/// `benches/inference.rs` on quiet and busy days: regions of 224 x 224 in twos 0.91 to 0.95 and in fours 0.88 to 0.96
/// with the shipped network, 0.86 to 0.92 and 0.80 to 0.92 with the int8 one; more than four were not asked for,
/// since a frame has two. Whole pictures 0.98 to 1.00 (int8 0.95 to 1.01): so pictures of several cameras are
/// not gathered. They would wait for each other, an eighth of a second on average at four a second, for nothing.
pub const MOST_AT_ONCE: usize = 4;

/// Shapes whose tensors are kept: whole pictures of two sizes and regions by ones to fours.
const SHAPES_KEPT: usize = 6;

/// One network, ready to run on one thread. Its tensors are kept from one run to the next, so that a run asks for no
/// memory but what ONNX Runtime's arena has.
pub struct Network {
    session: Session,
    card: Card,
    /// Whether several pictures may go through at once.
    is_batch_free: bool,
    /// Newest use last.
    bound: Vec<Bound>,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Network").field(&self.card.name).finish()
    }
}

impl Network {
    /// Loads `model` and runs it once on a grey picture, so that a network that cannot run is found
    /// at the start and not with the first frame.
    ///
    /// # Errors
    /// [`OnnxError`] names the model.
    pub fn load(runtime: &Runtime, model: &LoadedModel) -> Result<Self, OnnxError> {
        let name = model.card.name.clone();
        let bad = |why: String| OnnxError::BadNetwork {
            model: name.clone(),
            why,
        };
        let no_provider = |why: String| OnnxError::NoProvider {
            provider: runtime.provider,
            path: runtime.path.display().to_string(),
            why,
        };
        let session = Session::builder(&runtime.environment)
            .map_err(|e| bad(e.to_string()))?
            .with_execution_providers(runtime.provider.dispatch().as_slice())
            .map_err(|e| no_provider(e.to_string()))?
            .with_intra_threads(1)
            .map_err(|e| bad(e.to_string()))?
            .with_inter_threads(1)
            .map_err(|e| bad(e.to_string()))?
            .with_intra_op_spinning(false)
            .map_err(|e| bad(e.to_string()))?
            .with_optimization_level(GraphOptimizationLevel::All)
            .map_err(|e| bad(e.to_string()))?
            .commit_from_memory(&model.network)
            .map_err(|e| bad(e.to_string()))?;
        let card = &model.card;
        let (width, height) = (
            i64::from(card.input.width_px),
            i64::from(card.input.height_px),
        );
        // An axis of any length is -1.
        let fits = |found: i64, side: i64| match card.input.fit {
            Fit::Card => found == side,
            Fit::Frame => found == -1,
        };
        let shape = session
            .inputs()
            .first()
            .and_then(|i| i.dtype().tensor_shape().cloned());
        let shape: Option<Vec<i64>> = shape.map(|s| s.to_vec());
        let good = match shape.as_deref() {
            None => true,
            Some(&[1 | -1, 3, h, w]) => fits(h, height) && fits(w, width),
            Some(_) => false,
        };
        let values = (session.inputs().first()).and_then(|i| i.dtype().tensor_type());
        let wanted = match card.input.of {
            ValueType::F32 => TensorElementType::Float32,
            ValueType::U8 => TensorElementType::Uint8,
        };
        if session.inputs().len() != 1 || !good || values != Some(wanted) {
            let sides = match card.input.fit {
                Fit::Card => format!("[1 or -1, 3, {height}, {width}]"),
                Fit::Frame => "[1 or -1, 3, -1, -1] (input.fit = \"frame\")".to_owned(),
            };
            return Err(OnnxError::ShapeMismatch {
                model: name,
                what: "input",
                found: format!("{:?}", session.inputs()),
                expected: format!(
                    "one tensor {sides} of {wanted} (input.type = \"{}\")",
                    card.input.of.word()
                ),
            });
        }
        let size = card.tensor();
        let is_batch_free = shape.is_some_and(|shape| shape.first() == Some(&-1));
        let mut network = Self {
            session,
            card: card.clone(),
            is_batch_free,
            bound: Vec::with_capacity(SHAPES_KEPT),
        };
        // Of what a run takes once the arena keeps the most for ever: nothing larger than what comes later.
        network.run_each(size, 1, |mut tensor| tensor.fill(114.0), |_, _| ())?;
        if let Some(side_px) = card.regions.map(|of| of.side_px).filter(|_| is_batch_free) {
            let region = SizePx {
                width_px: side_px,
                height_px: side_px,
            };
            let both = network.run_each(region, 2, |mut tensor| tensor.fill(114.0), |_, _| ());
            network.is_batch_free = both.is_ok();
        }
        network.bound.clear();
        Ok(network)
    }

    /// Pictures that go through in one run at most: 1, unless the network's batch is free.
    pub fn most_at_once(&self) -> usize {
        if self.is_batch_free { MOST_AT_ONCE } else { 1 }
    }

    /// Runs the network on a picture of `size`: `fill` puts it into the tensor (what was there is the picture before),
    /// `read` gets the output.
    ///
    /// # Errors
    /// [`OnnxError::Inference`], or [`OnnxError::ShapeMismatch`] if the output has another size
    /// than the card makes of such a picture.
    pub fn run<T>(
        &mut self,
        size: SizePx,
        fill: impl FnOnce(TensorMut<'_>),
        read: impl FnOnce(&[f32]) -> T,
    ) -> Result<T, OnnxError> {
        let (mut read, mut seen) = (Some(read), None);
        self.run_each(size, 1, fill, |_, output| {
            seen = read.take().map(|read| read(output));
        })?;
        seen.ok_or_else(|| OnnxError::Inference {
            model: self.card.name.clone(),
            why: "no output".to_owned(),
        })
    }

    /// The same with several `pictures` of `size`, one after the other in the tensor, from one to
    /// [`most_at_once`](Self::most_at_once); `read` gets each one's number and output.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_each(
        &mut self,
        size: SizePx,
        pictures: usize,
        fill: impl FnOnce(TensorMut<'_>),
        mut read: impl FnMut(usize, &[f32]),
    ) -> Result<(), OnnxError> {
        let card = &self.card;
        let failed = |e: ort::Error| OnnxError::Inference {
            model: card.name.clone(),
            why: e.to_string(),
        };
        let known = self.bound.iter().position(|b| b.is_for(size, pictures));
        let mut bound = match known {
            Some(at) => self.bound.remove(at),
            None => Bound::new(size, pictures, card.input.of).map_err(failed)?,
        };
        fill(bound.input.values());
        lap(Part::Preprocess);
        let input = [bound.input.view()];
        let outputs = match &bound.into {
            Some(options) => self.session.run_with_options(input, options),
            None => self.session.run(input),
        };
        let outputs = outputs.map_err(failed)?;
        lap(Part::Infer);
        let (shape, output) = outputs[0].try_extract_tensor::<f32>().map_err(failed)?;
        let expected = card.output_len(size);
        if output.len() != pictures * expected {
            return Err(OnnxError::ShapeMismatch {
                model: card.name.clone(),
                what: "output",
                found: format!("{shape:?}"),
                expected: format!("{expected} values a picture for its decoder and classes"),
            });
        }
        for (picture, output) in output.chunks_exact(expected.max(1)).enumerate() {
            read(picture, output);
        }
        if bound.into.is_none() {
            let shape: Vec<i64> = shape.to_vec();
            drop(outputs);
            bound.keep_output(&self.session, shape).map_err(failed)?;
        } else {
            drop(outputs);
        }
        if self.bound.len() == SHAPES_KEPT {
            self.bound.remove(0);
        }
        self.bound.push(bound);
        Ok(())
    }
}

/// An input tensor, of what the card says.
enum Input {
    F32(Tensor<f32>),
    U8(Tensor<u8>),
}

impl Input {
    fn values(&mut self) -> TensorMut<'_> {
        match self {
            Self::F32(tensor) => tensor.extract_tensor_mut().1.into(),
            Self::U8(tensor) => tensor.extract_tensor_mut().1.into(),
        }
    }

    fn view(&self) -> SessionInputValue<'_> {
        match self {
            Self::F32(tensor) => tensor.into(),
            Self::U8(tensor) => tensor.into(),
        }
    }
}

/// The tensors of runs of one shape, used again.
struct Bound {
    size: SizePx,
    pictures: usize,
    input: Input,
    /// Where the output goes; `None`: its shape is not known before the first run.
    into: Option<RunOptions<HasSelectedOutputs>>,
}

impl Bound {
    fn new(size: SizePx, pictures: usize, of: ValueType) -> Result<Self, ort::Error> {
        let shape = [pictures, 3, size.height_px as usize, size.width_px as usize];
        let values = shape.iter().product();
        let input = match of {
            ValueType::F32 => Input::F32(Tensor::from_array((shape, vec![0.0; values]))?),
            ValueType::U8 => Input::U8(Tensor::from_array((shape, vec![0; values]))?),
        };
        Ok(Self {
            size,
            pictures,
            input,
            into: None,
        })
    }

    fn is_for(&self, size: SizePx, pictures: usize) -> bool {
        (self.size, self.pictures) == (size, pictures)
    }

    fn keep_output(&mut self, session: &Session, shape: Vec<i64>) -> Result<(), ort::Error> {
        let Some(output) = session.outputs().first() else {
            return Ok(());
        };
        let tensor = Tensor::<f32>::new(session.allocator(), shape)?;
        let outputs = OutputSelector::default().preallocate(output.name(), tensor);
        self.into = Some(RunOptions::new()?.with_outputs(outputs));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
