//! What the element does.

// The accessors that `Properties` makes have the properties' blurbs.
#![allow(missing_docs)]

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gst::prelude::*;
use gst::{ClockTime, FlowError, FlowSuccess, glib};
use gst_base::AGGREGATOR_FLOW_NEED_DATA as NEED_DATA;
use gst_base::AggregatorPad;
use gst_base::prelude::*;
use gst_base::subclass::prelude::*;
use gst_video::{VideoCapsBuilder, VideoInfo, VideoMeta};
use isfm::{Frame, FrameMut, Stream, VideoLayout};

use crate::frames::{self, layout_of, tidied};
use crate::settings::{AUTOMATIC, InfraredLoss, Normalization, Settings, chain};

static CATEGORY: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    let about = Some("Fusion of infrared and visible video");
    gst::DebugCategory::new("isfmfuse", gst::DebugColorFlags::empty(), about)
});

/// The time of a visible frame whose stream has no frame rate.
const USUAL_FRAME: ClockTime = ClockTime::from_nseconds(33_333_333);

/// More than any frame takes; sums of a few latencies stay far below what a time holds.
const LONGEST: ClockTime = ClockTime::from_seconds(3600);

/// The element.
#[derive(glib::Properties)]
#[properties(wrapper_type = super::IsfmFuse)]
pub struct IsfmFuse {
    #[property(
        name = "weights", type = Option<String>, member = weights, get, set, mutable_ready,
        nick = "Weights",
        blurb = "File of weights (.safetensors or .pth) instead of those inside the plugin"
    )]
    #[property(
        name = "device", type = Option<String>, member = device, get, set, mutable_ready,
        nick = "Device", default = Some("cpu"),
        blurb = "Where to compute: cpu, or in a build with CUDA cuda or cuda:N"
    )]
    #[property(
        name = "threads", type = u32, member = threads, get, set, mutable_ready,
        nick = "Threads", maximum = isfm::Builder::MAX_THREADS as u32,
        blurb = "Threads to use, at most as many as the machine has; 0 for all"
    )]
    #[property(
        name = "pyramid-levels", type = i32, member = pyramid_levels, get, set, mutable_ready,
        nick = "Pyramid levels", minimum = -1, maximum = isfm::Pyramid::MAX_LEVELS as i32,
        default = -1,
        blurb = "Levels of the pyramid to fuse on, for weights that leave the choice (those inside \
                 do not); -1 for what the weights were trained for"
    )]
    #[property(
        name = "normalize", type = Normalization, member = normalize, get, set,
        builder(Normalization::default())
            .nick("Normalisation")
            .blurb("How counts of 16-bit infrared frames become black and white")
            .mutable_ready()
    )]
    #[property(
        name = "range-low", type = f64, member = range_low, get, set, mutable_ready,
        nick = "Range, low", minimum = -1e9, maximum = 1e9,
        blurb = "The count that is black with normalize=range"
    )]
    #[property(
        name = "range-high", type = f64, member = range_high, get, set, mutable_ready,
        nick = "Range, high", minimum = -1e9, maximum = 1e9, default = 65_535.,
        blurb = "The count that is white with normalize=range"
    )]
    #[property(
        name = "time-constant", type = u64, member = time_constant, get, set, mutable_ready,
        nick = "Time constant", default = Settings::default().time_constant,
        blurb = "Nanoseconds in which two thirds of a change of the infrared range are followed with \
                 normalize=steady"
    )]
    #[property(
        name = "homography", type = Option<String>, member = homography, get, set, mutable_ready,
        nick = "Homography",
        blurb = "Where infrared frames lie on visible ones: JSON or a file of it, nine numbers row by \
                 row that take an infrared pixel to its visible one, or an object with them as matrix"
    )]
    #[property(
        name = "processing-time", type = u64, member = processing_time, get, set, mutable_ready,
        nick = "Processing time", default = AUTOMATIC,
        blurb = "Nanoseconds that fusing a frame takes, which are reported as latency; the default \
                 is a frame of the visible stream"
    )]
    #[property(
        name = "infrared-hold", type = u64, member = infrared_hold, get, set, mutable_playing,
        nick = "Infrared hold", default = Settings::default().infrared_hold,
        blurb = "Nanoseconds for which the last infrared frame serves when no other comes; the \
                 greatest value for ever"
    )]
    #[property(
        name = "infrared-loss", type = InfraredLoss, member = infrared_loss, get, set,
        builder(InfraredLoss::default())
            .nick("Infrared loss")
            .blurb("What happens after that, and when the infrared stream has ended")
            .mutable_playing()
    )]
    #[property(
        name = "qos", type = bool, member = qos, get, set, mutable_playing,
        nick = "Quality of service", default = true,
        blurb = "Drop visible frames that would come too late"
    )]
    settings: Mutex<Settings>,
    counts: Mutex<Counts>,
    visible: AggregatorPad,
    infrared: AggregatorPad,
    state: Mutex<State>,
    quality: Mutex<Quality>,
    /// By how much a frame may not wait until its latency is over, in nanoseconds. The base class holds a lock
    /// under which it cannot be asked for its latency.
    headroom: AtomicU64,
    /// Whether what follows looks at [`VideoMeta`].
    metas: AtomicBool,
}

/// What the thread that fuses knows.
#[derive(Default)]
struct State {
    stream: Option<Stream>,
    visible: Option<Input>,
    infrared: Option<Input>,
    /// The infrared frame that is over, as long as there is no newer one.
    last: Option<Heat>,
    /// Since when there is no infrared frame, in running time.
    absent: Option<ClockTime>,
    /// Whether its loss was told.
    told: bool,
    /// Whether there was an infrared frame.
    warm: bool,
    /// Whether frames were left out before the next.
    gap: bool,
}

struct Input {
    caps: gst::Caps,
    info: VideoInfo,
    /// None for a stream without a frame rate.
    frame: Option<ClockTime>,
}

impl Input {
    fn new(caps: &gst::CapsRef) -> Result<Self, String> {
        let info = VideoInfo::from_caps(caps).map_err(|_| format!("{caps} are no video"))?;
        let fps = info.fps();
        let frame = || {
            let part = |number: i32| u64::try_from(number).ok().filter(|&number| number > 0);
            ClockTime::SECOND.mul_div_floor(part(fps.denom())?, part(fps.numer())?)
        };
        // A size that is too large is told before a frame comes.
        VideoLayout::new(isfm::VideoFormat::Gray8, info.width(), info.height())
            .map_err(|error| error.to_string())?;
        Ok(Self { caps: caps.to_owned(), frame: frame(), info })
    }
}

/// An infrared frame.
struct Heat {
    buffer: gst::Buffer,
    layout: VideoLayout,
    /// When it is over, in running time.
    end: ClockTime,
}

/// What there is for a visible frame.
enum Now {
    Heat(Heat),
    /// Nothing, and nothing is to come.
    Nothing,
    /// Something may still come.
    Wait,
}

/// When a buffer is shown, in running time.
struct Span {
    start: ClockTime,
    duration: ClockTime,
}

#[derive(Clone, Default)]
struct Counts {
    fused: u64,
    passed: u64,
    dropped: u64,
    took: Duration,
}

/// What the sink says about being in time.
struct Quality {
    /// Before it, frames come too late.
    earliest: Option<ClockTime>,
    proportion: f64,
}

impl Default for Quality {
    fn default() -> Self {
        Self { earliest: None, proportion: 1. }
    }
}

/// A panic elsewhere has been told to the pipeline, and the element refuses further frames.
fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl IsfmFuse {
    fn stats(&self) -> gst::Structure {
        let Counts { fused, passed, dropped, took } = lock(&self.counts).clone();
        let average = took.as_nanos() / u128::from(fused.max(1));
        gst::Structure::builder("isfmfuse-stats")
            .field("fused", fused)
            .field("passed", passed)
            .field("dropped", dropped)
            .field("average-fusing-time", u64::try_from(average).unwrap_or(u64::MAX))
            .build()
    }

    fn fail(&self, what: &str) -> FlowError {
        gst::element_imp_error!(self, gst::StreamError::Failed, ("{what}"));
        FlowError::Error
    }

    /// When a frame is shown; none for one outside of its stream's segment.
    fn span(
        &self,
        pad: &AggregatorPad,
        buffer: &gst::BufferRef,
        input: &Input,
    ) -> Result<Option<Span>, FlowError> {
        let segment = pad.segment();
        let segment = segment.downcast_ref::<ClockTime>();
        let (Some(segment), Some(pts)) = (segment, buffer.pts()) else {
            return Err(self.fail(&format!(
                "a frame of the {} stream has no time stamp: streams need time stamps, and \
                 segments in time",
                pad.name()
            )));
        };
        let duration = buffer.duration().or(input.frame).unwrap_or(ClockTime::ZERO);
        Ok(segment.to_running_time(pts).map(|start| Span { start, duration }))
    }

    /// The next visible frame, fused or not.
    fn next(&self, state: &mut State, mut timeout: bool) -> Result<gst::Buffer, FlowError> {
        let Some(head) = self.visible.peek_buffer() else {
            if self.visible.is_eos() {
                return Err(FlowError::Eos);
            }
            if timeout {
                self.let_infrared_go(state)?;
            }
            return Err(NEED_DATA);
        };
        let input = state.visible.as_ref().ok_or_else(|| self.fail("visible frames lack caps"))?;
        let span = self.span(&self.visible, &head, input)?;
        let Some(span) = span.filter(|_| !is_gap(&head)) else {
            self.visible.drop_buffer();
            return Err(NEED_DATA);
        };
        let settings = lock(&self.settings).clone();
        let mut taken = None;
        if settings.qos {
            let earliest = lock(&self.quality).earliest;
            let unwanted = earliest.is_some_and(|earliest| span.start < earliest);
            let deadline = self.obj().latency().map(|latency| span.start.saturating_add(latency));
            let now = self.obj().current_running_time();
            let late = now.zip(deadline).is_some_and(|(now, deadline)| now > deadline);
            if unwanted || late {
                drop(head);
                taken = self.visible.pop_buffer();
                // With no other there, a late one is the latest there is.
                if unwanted || self.visible.has_buffer() {
                    state.gap = true;
                    self.tell_dropped(taken.as_deref(), &span, now, earliest.or(deadline));
                    return Err(NEED_DATA);
                }
                timeout = true;
            }
        } else {
            drop(head);
        }
        let heat =
            match self.infrared_at(state, span.start.saturating_add(span.duration / 2), timeout)? {
                Now::Wait => return Err(NEED_DATA),
                Now::Heat(heat) => Some(heat),
                Now::Nothing => None,
            };
        let moment = span.start;
        let heat = heat.filter(|heat| {
            let over = moment.saturating_sub(heat.end);
            settings.infrared_hold == u64::MAX || over.nseconds() <= settings.infrared_hold
        });
        if heat.is_none() && state.warm && settings.infrared_loss == InfraredLoss::Eos {
            return Err(FlowError::Eos);
        }
        self.tell_loss(state, heat.as_ref(), moment, settings.infrared_hold);
        let mut frame = taken.or_else(|| self.visible.pop_buffer()).ok_or(NEED_DATA)?;
        match &heat {
            Some(heat) => {
                let begin = Instant::now();
                frame = self.fused(state, frame, heat, moment)?;
                let mut counts = lock(&self.counts);
                counts.fused += 1;
                counts.took += begin.elapsed();
            }
            None => lock(&self.counts).passed += 1,
        }
        self.finished(state, frame)
    }

    /// The infrared frame that is shown at `moment`. It stays in the pad's queue until it is over, so that the
    /// base class waits for the next only when there is need of one.
    fn infrared_at(
        &self,
        state: &mut State,
        moment: ClockTime,
        timeout: bool,
    ) -> Result<Now, FlowError> {
        while let Some(head) = self.infrared.peek_buffer() {
            let Some((heat, start)) = self.heat(state, head)? else {
                self.infrared.drop_buffer();
                continue;
            };
            if start > moment {
                return Ok(state
                    .last
                    .as_ref()
                    .map_or(Now::Nothing, |last| Now::Heat(last.clone())));
            }
            if heat.end > moment {
                state.last = None;
                return Ok(Now::Heat(heat));
            }
            self.infrared.drop_buffer();
            state.last = Some(heat);
        }
        if !timeout && !self.infrared.is_eos() {
            return Ok(Now::Wait);
        }
        Ok(state.last.as_ref().map_or(Now::Nothing, |last| Now::Heat(last.clone())))
    }

    /// What a buffer of the infrared pad holds, and when it begins; none for a gap.
    fn heat(
        &self,
        state: &State,
        buffer: gst::Buffer,
    ) -> Result<Option<(Heat, ClockTime)>, FlowError> {
        if is_gap(&buffer) {
            return Ok(None);
        }
        let input =
            state.infrared.as_ref().ok_or_else(|| self.fail("infrared frames lack caps"))?;
        let Some(span) = self.span(&self.infrared, &buffer, input)? else { return Ok(None) };
        let layout = layout_of(&input.info, &buffer)
            .map_err(|problem| self.fail(&format!("an infrared frame: {problem}")))?;
        let end = span.start.saturating_add(span.duration);
        Ok(Some((Heat { buffer, layout, end }, span.start)))
    }

    /// The camera of an infrared frame for which no visible one came must not wait.
    fn let_infrared_go(&self, state: &mut State) -> Result<(), FlowError> {
        if let Some(buffer) = self.infrared.pop_buffer()
            && let Some((heat, _)) = self.heat(state, buffer)?
        {
            state.last = Some(heat);
        }
        Ok(())
    }

    fn fused(
        &self,
        state: &mut State,
        mut frame: gst::Buffer,
        heat: &Heat,
        moment: ClockTime,
    ) -> Result<gst::Buffer, FlowError> {
        let State { stream: Some(stream), visible: Some(input), .. } = state else {
            return Err(FlowError::Flushing);
        };
        let layout = layout_of(&input.info, &frame)
            .map_err(|problem| self.fail(&format!("a visible frame: {problem}")))?;
        let unmapped = |_| self.fail("the memory of a frame cannot be mapped");
        let counts = heat.buffer.map_readable().map_err(unmapped)?;
        {
            let pixels = frame.make_mut();
            let mut pixels = pixels.map_writable().map_err(unmapped)?;
            let visible = FrameMut { layout: &layout, data: &mut pixels };
            let infrared = Frame { layout: &heat.layout, data: &counts };
            let fuse = || stream.fuse_in_place(visible, infrared, moment.into());
            guarded(|| fuse().map_err(|error| chain(&error)))
                .map_err(|problem| self.fail(&format!("cannot fuse: {problem}")))?;
        }
        Ok(frame)
    }

    /// The frame as what follows can take it.
    fn finished(
        &self,
        state: &mut State,
        mut frame: gst::Buffer,
    ) -> Result<gst::Buffer, FlowError> {
        if let Some(input) = &state.visible
            && !self.metas.load(Relaxed)
            && let Some(copy) =
                tidied(&input.info, &frame).map_err(|problem| self.fail(&problem))?
        {
            frame = copy;
        }
        if std::mem::take(&mut state.gap) {
            frame.make_mut().set_flags(gst::BufferFlags::DISCONT);
        }
        Ok(frame)
    }

    /// Says once that there is no infrared frame, and once that there is one again.
    fn tell_loss(&self, state: &mut State, heat: Option<&Heat>, moment: ClockTime, hold: u64) {
        if heat.is_some() {
            state.warm = true;
            state.absent = None;
            if std::mem::take(&mut state.told) {
                gst::element_imp_info!(
                    self,
                    gst::StreamError::Failed,
                    ("there are infrared frames again")
                );
            }
            return;
        }
        let since = *state.absent.get_or_insert(moment);
        // The first may take a while. Of a later loss the hold is over.
        let long = moment.saturating_sub(since).nseconds() > if state.warm { 0 } else { hold };
        if !state.told && (long || state.warm) {
            state.told = true;
            gst::element_imp_warning!(
                self,
                gst::StreamError::Failed,
                ("there are no infrared frames: visible ones pass as they are")
            );
        }
    }

    fn tell_dropped(
        &self,
        frame: Option<&gst::BufferRef>,
        span: &Span,
        now: Option<ClockTime>,
        wanted: Option<ClockTime>,
    ) {
        let counts = {
            let mut counts = lock(&self.counts);
            counts.dropped += 1;
            counts.clone()
        };
        let pts = frame.and_then(|frame| frame.pts());
        let segment = self.visible.segment();
        let stream_time = segment.downcast_ref::<ClockTime>().and_then(|s| s.to_stream_time(pts));
        let jitter = now.or(wanted).zip(Some(span.start)).map_or(0, |(wanted, start)| {
            i64::try_from(wanted.saturating_sub(start).nseconds()).unwrap_or(i64::MAX)
        });
        let processed = counts.fused + counts.passed;
        let frames =
            |count| gst::GenericFormattedValue::from(gst::format::Default::from_u64(count));
        let message = gst::message::Qos::builder(self.obj().latency().is_some())
            .src(&*self.obj())
            .running_time(span.start)
            .stream_time(stream_time)
            .timestamp(pts)
            .duration(span.duration)
            .values(jitter, lock(&self.quality).proportion, 1_000_000)
            .stats(frames(processed), frames(counts.dropped))
            .build();
        // It fails where there is no pipeline to tell.
        _ = self.obj().post_message(message);
    }

    fn caps_came(&self, pad: &AggregatorPad, caps: &gst::CapsRef) -> bool {
        let input = match Input::new(caps) {
            Ok(input) => input,
            Err(problem) => {
                gst::element_imp_error!(
                    self,
                    gst::StreamError::Format,
                    ("the {} stream: {problem}", pad.name())
                );
                return false;
            }
        };
        let mut state = lock(&self.state);
        if *pad == self.visible {
            state.visible = Some(input);
            drop(state);
            self.obj().src_pad().mark_reconfigure();
        } else {
            state.infrared = Some(input);
            // Other counts, with another range.
            if let Some(stream) = &mut state.stream {
                stream.reset();
            }
        }
        true
    }

    /// What the pad and the peer of another one can both do.
    fn caps_with(&self, query: &mut gst::query::Caps, pad: &AggregatorPad, peer: &AggregatorPad) {
        let filter = query.filter_owned();
        let own = pad.pad_template_caps();
        let theirs = peer.peer_query_caps(Some(&own));
        let mut caps = theirs.intersect_with_mode(&own, gst::CapsIntersectMode::First);
        if let Some(filter) = filter {
            caps = filter.intersect_with_mode(&caps, gst::CapsIntersectMode::First);
        }
        query.set_result(&caps);
    }
}

impl Clone for Heat {
    fn clone(&self) -> Self {
        Self { buffer: self.buffer.clone(), layout: self.layout.clone(), end: self.end }
    }
}

/// An error instead of a panic, after which the bindings would call nothing of this element any more, and the
/// pipeline could not be stopped.
fn guarded<T>(f: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    // What it left half done is not used again: the error ends the stream, and starting makes a new one.
    std::panic::catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panicked: {}", text.unwrap_or("for no reason given")))
    })
}

/// Whether a buffer stands for a time without frames.
fn is_gap(buffer: &gst::BufferRef) -> bool {
    buffer.size() == 0 && buffer.flags().contains(gst::BufferFlags::GAP)
}

#[glib::object_subclass]
impl ObjectSubclass for IsfmFuse {
    const NAME: &'static str = "GstIsfmFuse";
    type Type = super::IsfmFuse;
    type ParentType = gst_base::Aggregator;

    fn with_class(class: &Self::Class) -> Self {
        let pad = |name| {
            let template = class.pad_template(name).expect("it is among the templates below");
            gst::PadBuilder::<AggregatorPad>::from_template(&template).build()
        };
        Self {
            settings: Mutex::default(),
            counts: Mutex::default(),
            visible: pad("visible"),
            infrared: pad("infrared"),
            state: Mutex::default(),
            quality: Mutex::default(),
            headroom: AtomicU64::default(),
            metas: AtomicBool::default(),
        }
    }
}

impl ObjectImpl for IsfmFuse {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            // After the others, which are told apart by their places.
            let stats = glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                .nick("Statistics")
                .blurb(
                    "Frames fused, passed as they were and dropped since the element was started, \
                     and nanoseconds that fusing took, on average",
                )
                .read_only()
                .build();
            IsfmFuse::derived_properties().iter().cloned().chain([stats]).collect()
        });
        &PROPERTIES
    }

    fn set_property(&self, id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        self.derived_set_property(id, value, pspec);
    }

    fn property(&self, id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        match pspec.name() {
            "stats" => self.stats().to_value(),
            _ => self.derived_property(id, pspec),
        }
    }

    fn constructed(&self) {
        self.parent_constructed();
        for pad in [&self.visible, &self.infrared] {
            // It fails for a name that is taken.
            if let Err(error) = self.obj().add_pad(pad) {
                gst::error!(CATEGORY, imp = self, "cannot add a pad: {error}");
            }
        }
    }
}

impl GstObjectImpl for IsfmFuse {}

impl ElementImpl for IsfmFuse {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Infrared and visible fusion",
                "Filter/Effect/Video",
                "Fuses the frames of an infrared camera into those of a visible one (ISFM network)",
                "The ISFM in Rust developers",
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let visible = VideoCapsBuilder::new().format_list(frames::VISIBLE).build();
            let infrared = VideoCapsBuilder::new().format_list(frames::INFRARED).build();
            let (sink, src) = (gst::PadDirection::Sink, gst::PadDirection::Src);
            [("visible", sink, &visible), ("infrared", sink, &infrared), ("src", src, &visible)]
                .into_iter()
                .map(|(name, direction, caps)| {
                    gst::PadTemplate::with_gtype(
                        name,
                        direction,
                        gst::PadPresence::Always,
                        caps,
                        AggregatorPad::static_type(),
                    )
                    .expect("name, caps and type are right")
                })
                .collect()
        });
        &TEMPLATES
    }
}

impl AggregatorImpl for IsfmFuse {
    fn start(&self) -> Result<(), gst::ErrorMessage> {
        let settings = lock(&self.settings).clone();
        let stream = guarded(|| settings.stream())
            .map_err(|problem| gst::error_msg!(gst::ResourceError::Settings, ("{problem}")))?;
        *lock(&self.state) = State { stream: Some(stream), ..State::default() };
        *lock(&self.counts) = Counts::default();
        *lock(&self.quality) = Quality::default();
        self.metas.store(false, Relaxed);
        self.parent_start()
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        *lock(&self.state) = State::default();
        self.parent_stop()
    }

    fn flush(&self) -> Result<FlowSuccess, FlowError> {
        {
            let mut state = lock(&self.state);
            let State { stream, visible, infrared, .. } = std::mem::take(&mut *state);
            *state = State { stream, visible, infrared, ..State::default() };
            if let Some(stream) = &mut state.stream {
                stream.reset();
            }
        }
        *lock(&self.quality) = Quality::default();
        self.parent_flush()
    }

    fn aggregate(&self, timeout: bool) -> Result<FlowSuccess, FlowError> {
        let frame = self.next(&mut lock(&self.state), timeout)?;
        if let Some(pts) = frame.pts() {
            let duration = frame.duration().unwrap_or(ClockTime::ZERO);
            self.obj().set_position(pts.saturating_add(duration));
        }
        self.finish_buffer(frame)
    }

    /// Until when to wait for the infrared frame of the visible one that is there, less the latency.
    fn next_time(&self) -> Option<ClockTime> {
        let running = |pad: &AggregatorPad, end: bool| {
            let buffer = pad.peek_buffer()?;
            let segment = pad.segment();
            let start = segment.downcast_ref::<ClockTime>()?.to_running_time(buffer.pts()?)?;
            let duration = buffer.duration().unwrap_or(ClockTime::ZERO);
            Some(if end { start.saturating_add(duration) } else { start })
        };
        if self.visible.is_eos() {
            return Some(ClockTime::ZERO);
        }
        if self.visible.has_buffer() {
            // What has no time is refused at once.
            let start = running(&self.visible, false).unwrap_or(ClockTime::ZERO);
            let headroom = ClockTime::from_nseconds(self.headroom.load(Relaxed));
            return Some(start.saturating_sub(headroom));
        }
        // An infrared frame that no visible one came for.
        self.infrared.has_buffer().then(|| running(&self.infrared, true).unwrap_or(ClockTime::ZERO))
    }

    fn sink_event(&self, pad: &AggregatorPad, event: gst::Event) -> bool {
        use gst::EventView;
        match event.view() {
            EventView::Caps(caps) if !self.caps_came(pad, caps.caps()) => return false,
            // Frames keep their times, so the fused stream has the visible one's segment.
            EventView::Segment(segment) if *pad == self.visible => {
                if let Some(segment) = segment.segment().downcast_ref::<ClockTime>() {
                    self.obj().update_segment(segment);
                }
            }
            _ => (),
        }
        self.parent_sink_event(pad, event)
    }

    fn sink_query(&self, pad: &AggregatorPad, query: &mut gst::QueryRef) -> bool {
        match query.view_mut() {
            gst::QueryViewMut::Caps(query) if *pad == self.visible => {
                self.caps_with(query, pad, self.obj().src_pad());
                true
            }
            _ => self.parent_sink_query(pad, query),
        }
    }

    fn src_query(&self, query: &mut gst::QueryRef) -> bool {
        match query.view_mut() {
            gst::QueryViewMut::Caps(query) => {
                self.caps_with(query, self.obj().src_pad(), &self.visible);
                true
            }
            gst::QueryViewMut::Position(_) | gst::QueryViewMut::Duration(_) => {
                self.visible.peer_query(query)
            }
            _ => self.parent_src_query(query),
        }
    }

    fn src_event(&self, event: gst::Event) -> bool {
        if let gst::EventView::Qos(qos) = event.view() {
            let (_, proportion, diff, timestamp) = qos.get();
            let earliest = timestamp.and_then(|timestamp| match u64::try_from(diff) {
                // Twice, so that frames that come now are in time again.
                Ok(late) => {
                    let late = ClockTime::from_nseconds(late).saturating_mul(2);
                    timestamp.checked_add(late.min(ClockTime::SECOND))
                }
                Err(_) => {
                    Some(timestamp.saturating_sub(ClockTime::from_nseconds(diff.unsigned_abs())))
                }
            });
            *lock(&self.quality) = Quality { earliest, proportion };
        }
        self.parent_src_event(event)
    }

    /// Before there are caps there is nothing to agree upon.
    fn negotiate(&self) -> bool {
        let known = lock(&self.state).visible.is_some();
        !known || self.parent_negotiate()
    }

    fn update_src_caps(&self, caps: &gst::Caps) -> Result<gst::Caps, FlowError> {
        let own = lock(&self.state).visible.as_ref().map(|input| input.caps.clone());
        let own = own.ok_or(NEED_DATA)?;
        if !caps.can_intersect(&own) {
            gst::element_imp_error!(
                self,
                gst::CoreError::Negotiation,
                ("the fused stream is what the visible one is, {own}, which is not taken after it")
            );
            return Err(FlowError::NotNegotiated);
        }
        Ok(own)
    }

    fn negotiated_src_caps(&self, caps: &gst::Caps) -> Result<(), gst::LoggableError> {
        let frame = lock(&self.state).visible.as_ref().and_then(|input| input.frame);
        let frame = frame.unwrap_or(USUAL_FRAME);
        let processing = match lock(&self.settings).processing_time {
            AUTOMATIC => frame,
            given => ClockTime::from_nseconds(given).min(LONGEST),
        };
        // The infrared frame is that of the middle of the visible one.
        let latency = processing.saturating_add(frame / 2);
        self.headroom.store(processing.nseconds(), Relaxed);
        self.obj().set_latency(latency, latency);
        self.parent_negotiated_src_caps(caps)
    }

    fn propose_allocation(
        &self,
        pad: &AggregatorPad,
        decided: Option<&gst::query::Allocation>,
        query: &mut gst::query::Allocation,
    ) -> Result<(), gst::LoggableError> {
        query.add_allocation_meta::<VideoMeta>(None);
        self.parent_propose_allocation(pad, decided, query)
    }

    fn decide_allocation(
        &self,
        query: &mut gst::query::Allocation,
    ) -> Result<(), gst::LoggableError> {
        self.metas.store(query.find_allocation_meta::<VideoMeta>().is_some(), Relaxed);
        // Frames stay in the buffers they came in.
        while query.allocation_pools().len() > 0 {
            query.remove_nth_allocation_pool(0);
        }
        self.parent_decide_allocation(query)
    }
}

#[cfg(test)]
mod tests {
    use super::guarded;

    #[test]
    fn a_panic_is_an_error() {
        let panicked = guarded::<()>(|| panic!("the {} fell", "sky"));
        assert_eq!(panicked, Err("panicked: the sky fell".to_owned()));
        assert_eq!(guarded(|| Ok(3)), Ok(3));
        assert_eq!(guarded::<()>(|| Err("no".to_owned())), Err("no".to_owned()));
    }
}
