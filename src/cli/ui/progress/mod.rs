//! The progress of a run. Events only change a state; a thread of its own draws it from time to time, so that the engine never waits
//! for a terminal.

mod bars;
mod json;
mod plain;
mod state;

#[cfg(feature = "schema")]
pub(crate) use json::EventLines;

use super::output::{self, TerminalSize, clean};
use super::terminal::Terminal;
use super::wording::Wording;
use super::{failures, tables};
use crate::bundle::BundleObserver;
use crate::cli::args::output::ProgressMode;
use crate::cli::context::Context;
use crate::oci::{Reference, Registry, Repository, Tag};
use crate::transfer::{Event, ImageReport, Observer, Plan, Report, Status};
use crate::verify::VerifyObserver;
use parking_lot::{Mutex, MutexGuard};
use state::RunState;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often bars are drawn.
const FRAME: Duration = Duration::from_millis(100);

/// What is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    Bars,
    Plain,
    Json,
    Nothing,
}

impl View {
    fn of(mode: ProgressMode, context: &Context<'_>) -> Self {
        let has_bars = std::io::stderr().is_terminal();
        // Continuous integration systems offer a terminal, and keep what it prints as a log.
        let is_log = matches!(context.environment.get("CI"), Some("true" | "1"))
            || context.environment.get("TERM") == Some("dumb");
        match mode {
            ProgressMode::Json => Self::Json,
            ProgressMode::None => Self::Nothing,
            _ if context.is_quiet() => Self::Nothing,
            ProgressMode::Bar if has_bars => Self::Bars,
            ProgressMode::Auto if has_bars && !is_log => Self::Bars,
            ProgressMode::Plain | ProgressMode::Auto | ProgressMode::Bar => Self::Plain,
        }
    }
}

/// The progress of one run.
pub(crate) struct Progress {
    shared: Arc<Shared>,
    drawing: Option<Drawing>,
}

struct Shared {
    view: View,
    is_quiet: bool,
    wording: Wording,
    terminal: Arc<Terminal>,
    state: Mutex<RunState>,
    /// Held from counting an image to printing its line, so that the numbers of the lines ascend.
    counting: Mutex<()>,
    /// Whether the note on sparse indexes was shown.
    has_noted_sparse: AtomicBool,
    /// The registry that a copy writes to, which the references of its images do not name.
    destination: OnceLock<Registry>,
    events: json::EventWriter,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, RunState> {
        self.state.lock()
    }
}

impl Progress {
    /// Starts to show the progress of a run.
    pub(crate) fn start(wording: Wording, mode: ProgressMode, context: &Context<'_>) -> Self {
        let now = Instant::now();
        let shared = Arc::new(Shared {
            view: View::of(mode, context),
            is_quiet: context.is_quiet(),
            wording,
            terminal: Arc::clone(&context.terminal),
            state: Mutex::new(RunState::new(now)),
            counting: Mutex::default(),
            has_noted_sparse: AtomicBool::new(false),
            destination: OnceLock::new(),
            events: json::EventWriter::new(now),
        });
        let drawing = match shared.view {
            View::Bars => {
                let shared = Arc::clone(&shared);
                let mut rows = 0;
                Some(Drawing::start(FRAME, move || {
                    let mut state = shared.state();
                    if !state.is_stopping {
                        draw(&mut state, &mut rows, &shared.terminal);
                    }
                }))
            }
            View::Plain => {
                let shared = Arc::clone(&shared);
                let mut timer = plain::StatusTimer::new(now);
                Some(Drawing::start(Duration::from_secs(1), move || {
                    let line = timer.poll(&mut shared.state(), Instant::now());
                    if let Some(line) = line {
                        shared.terminal.line(&line);
                    }
                }))
            }
            View::Json => {
                shared.events.open();
                None
            }
            View::Nothing => None,
        };
        Self { shared, drawing }
    }

    /// The observer of the run's events.
    pub(crate) fn observer(&self) -> Arc<dyn Observer> {
        Arc::new(ProgressObserver(Arc::clone(&self.shared)))
    }

    /// What to do at the first signal: the bars go, and the answer comes at once.
    pub(crate) fn on_interrupt(&self) -> impl FnOnce() + Send + 'static {
        let shared = Arc::clone(&self.shared);
        move || {
            shared.state().is_stopping = true;
            shared.terminal.clear_footer();
            let consequence = shared.wording.stopping;
            shared.terminal.line(&format!("stopping: {consequence} (press Ctrl-C again to end at once)"));
        }
    }

    /// Whether the note on sparse indexes was shown, before any bytes were moved.
    pub(crate) fn has_noted_sparse(&self) -> bool {
        self.shared.has_noted_sparse.load(Ordering::Relaxed)
    }

    /// Shows images by their names at `registry`, to which they are copied.
    pub(crate) fn set_destination(&self, registry: Registry) {
        let _ = self.shared.destination.set(registry);
    }

    /// A plan with the names that are shown.
    pub(crate) fn shown(&self, plan: &Plan) -> Plan {
        let mut shown = plan.clone();
        if let Some(registry) = self.shared.destination.get() {
            for image in shown.images.iter_mut().filter(|image| image.status != Status::Failed) {
                image.reference = named_at(registry, &image.repository, image.tag.as_ref());
            }
        }
        shown
    }

    /// Ends the display. With JSON, the totals are the last event.
    pub(crate) fn stop(&mut self, report: &Report) {
        if self.shared.view == View::Json {
            self.shared.events.finished(report, self.shared.wording);
        }
        self.end();
    }

    /// As `stop`, for a dry run: with JSON, the plan is the last event.
    pub(crate) fn stop_planning(&mut self, plan: &Plan) {
        if self.shared.view == View::Json {
            self.shared.events.planned(plan);
        }
        self.end();
    }

    fn end(&mut self) {
        self.drawing.take();
        self.shared.terminal.clear_footer();
        self.shared.events.close();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

/// Draws the bars for `state`.
fn draw(state: &mut RunState, rows: &mut usize, terminal: &Terminal) {
    let now = Instant::now();
    state.sample(now);
    let size = output::terminal_size(std::io::stderr()).unwrap_or(TerminalSize { columns: 80, rows: 24 });
    terminal.draw_footer(bars::lines(state, rows, size, now, terminal.paint()), size);
}

/// A thread that draws until it is dropped.
struct Drawing {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drawing {
    /// Calls `draw` each `period`.
    fn start(period: Duration, mut draw: impl FnMut() + Send + 'static) -> Self {
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(period) {
                draw();
            }
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Drawing {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing more to draw.
            let _ = thread.join();
        }
    }
}

/// The progress of hashing a directory.
pub(crate) struct HashingProgress {
    state: Arc<Mutex<RunState>>,
    drawing: Option<Drawing>,
    terminal: Arc<Terminal>,
}

impl HashingProgress {
    /// Starts to show it, where bars are shown.
    pub(crate) fn start(context: &Context<'_>) -> Self {
        let state = Arc::new(Mutex::new(RunState::new(Instant::now())));
        let terminal = Arc::clone(&context.terminal);
        let is_shown = View::of(ProgressMode::Auto, context) == View::Bars;
        let drawing = is_shown.then(|| {
            let state = Arc::clone(&state);
            let terminal = Arc::clone(&terminal);
            Drawing::start(FRAME, move || {
                let mut state = state.lock();
                if state.has_step() {
                    draw(&mut state, &mut 0, &terminal);
                }
            })
        });
        Self { state, drawing, terminal }
    }

    fn state(&self) -> MutexGuard<'_, RunState> {
        self.state.lock()
    }
}

impl VerifyObserver for HashingProgress {
    fn hashing(&self, _: usize, bytes: u64) {
        self.state().start_step("hashing", bytes, Instant::now());
    }

    fn hashed(&self, bytes: u64) {
        self.state().advance_step(bytes);
    }
}

impl BundleObserver for HashingProgress {
    fn started(&self, bytes: u64) {
        self.state().start_step("copying", bytes, Instant::now());
    }

    fn moved(&self, bytes: u64) {
        self.state().advance_step(bytes);
    }
}

impl Drop for HashingProgress {
    fn drop(&mut self) {
        self.drawing.take();
        self.terminal.clear_footer();
    }
}

struct ProgressObserver(Arc<Shared>);

impl Observer for ProgressObserver {
    fn event(&self, event: &Event<'_>) {
        let shared = &*self.0;
        if shared.view == View::Json {
            return shared.events.event(event);
        }
        let is_finished = matches!(event, Event::ImageFinished { .. });
        let counting = is_finished.then(|| shared.counting.lock());
        let (done, total) = {
            let mut state = shared.state();
            state.note(event, Instant::now());
            (state.images_done(), state.images)
        };
        match event {
            Event::ImageFinished { image } if has_line(image, shared.view) => {
                shared.state().last_line = Some(Instant::now());
                shared.terminal.line(&image_line(image, done, total, shared));
            }
            // Before the bytes move: another index mode may be needed.
            Event::ImagePlanned { fetch_bytes: 1.., omitted: [_, ..], .. }
                if shared.view != View::Nothing && !shared.has_noted_sparse.swap(true, Ordering::Relaxed) =>
            {
                let clients = tables::SPARSE_INDEX_CLIENTS;
                let note = format!("note: an index names more platforms than were selected; {clients}");
                note.lines().for_each(|line| shared.terminal.line(line));
            }
            Event::Warning { reference: None, message } if !shared.is_quiet => {
                let word = shared.terminal.paint().yellow("warning:");
                shared.terminal.line(&format!("{word} {}", clean(message)));
            }
            _ => {}
        }
        drop(counting);
    }
}

/// The name of an image at the registry that it is copied to.
fn named_at(registry: &Registry, repository: &Repository, tag: Option<&Tag>) -> Reference {
    Reference { registry: registry.clone(), repository: repository.clone(), tag: tag.cloned(), digest: None }
}

/// Whether a finished image has a line. Those that are unfinished because the run ended would push what matters off the screen.
fn has_line(image: &ImageReport, view: View) -> bool {
    matches!(view, View::Bars | View::Plain) && !failures::is_unfinished(image.error.as_ref())
}

/// The line of a finished image. Why an image failed or was skipped is printed at the end of the run.
fn image_line(image: &ImageReport, done: usize, total: usize, shared: &Shared) -> String {
    let paint = shared.terminal.paint();
    let width = total.to_string().len();
    let position = paint.dim(&format!("[{done:>width$}/{total}]"));
    let reference = match shared.destination.get() {
        // Of a copy that failed, the source is as likely the reason.
        Some(registry) if image.status != Status::Failed => {
            let name = named_at(registry, &image.repository, image.tag.as_ref());
            Reference { digest: image.digest.filter(|_| image.tag.is_none()), ..name }.to_string()
        }
        _ => image.reference.to_string(),
    };
    let name = clean(&reference);
    match image.status {
        status if status.is_done() || status.is_planned() => {
            let time = output::time(Duration::try_from_secs_f64(image.seconds).unwrap_or_default());
            // In an archive, most bytes are not transferred for one image alone.
            let size = if shared.wording.is_archive {
                output::size(image.bytes_fetched.saturating_add(image.bytes_reused))
            } else {
                format!("{} in {time}", output::size(image.bytes_fetched))
            };
            let digests = match (tables::is_update(image), image.replaced, image.digest) {
                (true, Some(old), Some(new)) => format!("  {} → {}", old.short(), new.short()),
                _ => String::new(),
            };
            let word = if tables::is_update(image) { "updated" } else { shared.wording.done };
            let word = paint.green(&format!("{word:<9}"));
            format!("{position} {word} {name}{digests}  {}", paint.dim(&size))
        }
        Status::Unchanged => format!("{position} {} {name}", paint.dim("unchanged")),
        Status::Skipped => format!("{position} {} {name}", paint.yellow("skipped  ")),
        _ => format!("{position} {} {name}", paint.red("failed   ")),
    }
}
