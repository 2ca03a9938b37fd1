//! What is shown while a run goes on. Events only change a tally; a thread of its own looks at the
//! tally now and then and draws, so that the engine never waits for a terminal.

mod bars;
mod json;
mod plain;
mod tally;

#[cfg(feature = "schema")]
pub(crate) use json::EventLines;

use crate::cli::args::ProgressMode;
use crate::cli::ui::failures;
use crate::cli::ui::output::{self, clean};
use crate::cli::ui::terminal::Screen;
use crate::cli::ui::wording::Words;
use crate::transfer::{Event, ImageReport, Observer, Plan, Report, Status};
use std::io::IsTerminal;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tally::Tally;

/// What is shown in the end, and what `auto` became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    Bars,
    Plain,
    Json,
    Nothing,
}

/// The progress of one run.
pub(crate) struct Progress {
    shared: Arc<Shared>,
    drawing: Option<(Sender<()>, JoinHandle<()>)>,
}

struct Shared {
    view: View,
    quiet: bool,
    words: Words,
    screen: Arc<Screen>,
    tally: Mutex<Tally>,
    /// Held from counting an image to printing its line, so that the numbers of the lines go up.
    counting: Mutex<()>,
    json: json::Json,
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress {
    /// Begins to show progress of what `words` say is done, in `mode`.
    pub(crate) fn of(words: Words, mode: ProgressMode, quiet: bool, screen: Arc<Screen>) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let view = match mode {
            ProgressMode::Json => View::Json,
            _ if quiet => View::Nothing,
            ProgressMode::None => View::Nothing,
            ProgressMode::Plain => View::Plain,
            ProgressMode::Auto | ProgressMode::Bar if terminal => View::Bars,
            ProgressMode::Auto | ProgressMode::Bar => View::Plain,
        };
        let now = Instant::now();
        let shared = Arc::new(Shared {
            view,
            quiet,
            words,
            screen,
            tally: Mutex::new(Tally::new()),
            counting: Mutex::default(),
            json: json::Json::new(now),
        });
        let drawing = match view {
            View::Bars => {
                let mut bars = bars::Bars::new(&shared.screen);
                Some(every(Duration::from_millis(100), shared.clone(), move |shared| match shared {
                    Some(shared) => {
                        let mut tally = shared.tally();
                        if !tally.stopping {
                            bars.draw(&mut tally, shared.screen.paint());
                        }
                    }
                    None => bars.clear(),
                }))
            }
            View::Plain => {
                let mut pulse = plain::Pulse::new(Instant::now());
                Some(every(Duration::from_secs(1), shared.clone(), move |shared| {
                    let Some(shared) = shared else { return };
                    let line = pulse.beat(&mut shared.tally(), Instant::now());
                    if let Some(line) = line {
                        shared.screen.line(&line);
                    }
                }))
            }
            View::Json => {
                shared.json.open();
                None
            }
            View::Nothing => None,
        };
        Self { shared, drawing }
    }

    /// Who is to be told of the run's events.
    pub(crate) fn observer(&self) -> Arc<dyn Observer> {
        Arc::new(Teller(self.shared.clone()))
    }

    /// What to do at the first signal: nothing moves any more, and the answer comes at once.
    pub(crate) fn on_interrupt(&self) -> impl FnOnce() + Send + 'static {
        let shared = self.shared.clone();
        move || {
            let mut tally = shared.tally();
            tally.stopping = true;
            shared.screen.end_bars();
            let promise = shared.words.stopping;
            shared.screen.line(&format!("stopping: {promise} (again: end at once)"));
        }
    }

    /// Ends the showing and takes the bars away. With JSON, the totals become the last event.
    pub(crate) fn stop(mut self, report: &Report) {
        if self.shared.view == View::Json {
            self.shared.json.finished(report, self.shared.words);
        }
        self.end_drawing();
    }

    /// As `stop`, for a dry run: with JSON, the plan becomes the last event.
    pub(crate) fn stop_planning(mut self, plan: &Plan) {
        if self.shared.view == View::Json {
            self.shared.json.planned(plan);
        }
        self.end_drawing();
    }

    fn end_drawing(&mut self) {
        if let Some((stop, thread)) = self.drawing.take() {
            drop(stop);
            // A drawing thread that panicked has nothing more to draw.
            let _ = thread.join();
        }
        self.shared.screen.end_bars();
        self.shared.json.close();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end_drawing();
    }
}

/// Calls `draw` each `period` on a thread, and once without the tally at the end.
fn every(
    period: Duration,
    shared: Arc<Shared>,
    mut draw: impl FnMut(Option<&Shared>) + Send + 'static,
) -> (Sender<()>, JoinHandle<()>) {
    let (stop, stopped) = channel();
    let thread = std::thread::spawn(move || {
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(period) {
            draw(Some(&shared));
        }
        draw(None);
    });
    (stop, thread)
}

struct Teller(Arc<Shared>);

impl Observer for Teller {
    fn event(&self, event: &Event<'_>) {
        let shared = &*self.0;
        if shared.view == View::Json {
            return shared.json.event(event);
        }
        let is_end = matches!(event, Event::ImageFinished { .. });
        let counting = is_end.then(|| shared.counting.lock().unwrap_or_else(PoisonError::into_inner));
        let (done, total) = {
            let mut tally = shared.tally();
            tally.note(event, Instant::now());
            (tally.images_done(), tally.images)
        };
        match event {
            Event::ImageFinished { image } if is_line(image, shared.view) => {
                shared.tally().spoke = Some(Instant::now());
                shared.screen.line(&finished(image, done, total, shared));
            }
            Event::Warning { reference: None, message } if !shared.quiet => {
                let word = shared.screen.paint().yellow("warning:");
                shared.screen.line(&format!("{word} {}", clean(message)));
            }
            _ => {}
        }
        drop(counting);
    }
}

/// Whether an image's end is a line of its own. Images that a run's end took with it would push what matters off
/// the screen, and what the disk refused is told when the run has ended.
fn is_line(image: &ImageReport, view: View) -> bool {
    matches!(view, View::Bars | View::Plain) && !failures::is_given_up(image.error.as_ref())
}

/// The line of an image that has ended.
fn finished(image: &ImageReport, done: usize, total: usize, shared: &Shared) -> String {
    let paint = shared.screen.paint();
    let width = total.to_string().len();
    let place = paint.dim(&format!("[{done:>width$}/{total}]"));
    let why = || failures::reason(&image.reference, image.error.as_ref());
    let reference = image.reference.to_string();
    let name = clean(&reference);
    match image.status {
        status if status.is_done() || status.is_planned() => {
            let time = output::time(Duration::try_from_secs_f64(image.seconds).unwrap_or_default());
            // Of an archive the bytes that an image has, as most are not moved for it alone.
            let size = match shared.words.one {
                true => output::size(image.bytes_fetched.saturating_add(image.bytes_reused)),
                false => format!("{} in {time}", output::size(image.bytes_fetched)),
            };
            let done = paint.green(&format!("{:<9}", shared.words.done));
            format!("{place} {done} {name}  {}", paint.dim(&size))
        }
        Status::Unchanged => format!("{place} {} {name}", paint.dim("unchanged")),
        Status::Skipped => format!("{place} {} {name}  {}", paint.yellow("skipped  "), clean(why())),
        _ => {
            let what = image.error.as_ref().map_or_else(|| why().into(), |error| failures::told(error).0);
            format!("{place} {} {name}  {}", paint.red("failed   "), clean(&what))
        }
    }
}
