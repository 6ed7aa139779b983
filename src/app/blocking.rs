//! Blocking work called from async code, on a named thread of its own.
use anyhow::Context as _;
use tokio::sync::oneshot;

/// Runs `work` on a thread called `name` and waits for its result without blocking the runtime.
///
/// # Errors
/// The system gives no thread, or `work` panicked.
pub async fn on_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> anyhow::Result<T> {
    let (done, result) = oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // Whoever asked may have been cancelled meanwhile.
            drop(done.send(work()));
        })
        .with_context(|| format!("no thread for {name}"))?;
    result.await.with_context(|| format!("{name} panicked"))
}
