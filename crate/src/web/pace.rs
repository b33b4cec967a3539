//! How a computation breathes in a worker: a turn of the event loop after each slice, so that messages and heartbeats
//! get through, and idle time for the duty limit.

use js_sys::Promise;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{MessageChannel, WorkerGlobalScope};

use super::timer::sleep;
use crate::control::{Pace, PaceFuture};

/// The pace of one unit.
pub struct WebPace {
    duty_percent: u32,
    performance: Option<web_sys::Performance>,
    /// Messages to oneself come round in one turn, where nested timers take at least 4 ms.
    channel: Option<MessageChannel>,
}

impl WebPace {
    pub fn new(duty_percent: u32) -> Self {
        let performance = js_sys::global().unchecked_into::<WorkerGlobalScope>().performance();
        Self { duty_percent: duty_percent.clamp(1, 100), performance, channel: MessageChannel::new().ok() }
    }
}

impl Pace for WebPace {
    fn now_ms(&self) -> f64 {
        self.performance.as_ref().map_or_else(js_sys::Date::now, web_sys::Performance::now)
    }

    fn breathe(&self, worked_ms: f64) -> PaceFuture {
        let idle_ms = crate::volunteer::device::idle_ms(worked_ms, self.duty_percent);
        let channel = self.channel.clone();
        Box::pin(async move {
            match channel {
                Some(channel) if idle_ms < 1.0 => turn(&channel).await,
                _ => sleep(idle_ms as u64).await,
            }
        })
    }
}

impl Drop for WebPace {
    fn drop(&mut self) {
        if let Some(channel) = &self.channel {
            channel.port1().close();
        }
    }
}

async fn turn(channel: &MessageChannel) {
    let (here, there) = (channel.port1(), channel.port2());
    let back = Promise::new(&mut |resolve, _| {
        here.set_onmessage(Some(&resolve));
        if there.post_message(&JsValue::NULL).is_err() {
            let _ = resolve.call0(&JsValue::NULL);
        }
    });
    let _ = JsFuture::from(back).await;
}
