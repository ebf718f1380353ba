//! Sleeping on a handle's descriptor.

use std::future::{Future, poll_fn};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::sync::{Mutex, MutexGuard};
use std::task::Poll;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use trine::Error;

/// Where whoever drives a handle sleeps.
pub struct Sleep {
    descriptor: AsyncFd<OwnedFd>,
    /// There is something to do that the descriptor does not tell of.
    kicked: Notify,
}

impl Sleep {
    pub fn on(handle: &impl AsFd) -> Result<Sleep, Error> {
        let failed = |source| Error::System { what: "watching a handle's descriptor".into(), source };
        let descriptor = handle.as_fd().try_clone_to_owned().map_err(failed)?;
        // SAFETY: the descriptor is this one's own, and stays open as long as this has it: nothing here takes it out.
        let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
        let descriptor = registered.map_err(|error| failed(error.into_parts().1))?;
        Ok(Sleep { descriptor, kicked: Notify::new() })
    }

    /// Ends the sleep that is under way, or else the next one.
    pub fn kick(&self) {
        self.kicked.notify_one();
    }

    /// Until the descriptor is readable, or somebody kicks.
    pub async fn sleep(&self) {
        let rung = async {
            // Cleared before anybody looks: what comes while one looks makes it readable again. It fails only where the
            // runtime is going down.
            if let Ok(mut ready) = self.descriptor.readable().await {
                ready.clear_ready();
            }
        };
        let (mut rung, mut kicked) = (pin!(rung), pin!(self.kicked.notified()));
        poll_fn(|context| match rung.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => kicked.as_mut().poll(context),
        })
        .await;
    }
}

/// The handle; nobody's panic leaves it half done, since it runs no code of the program's.
pub fn lock<T>(handle: &Mutex<T>) -> MutexGuard<'_, T> {
    handle.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
