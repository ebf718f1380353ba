//! The conformance worker: worker BUS FIRST LAST [parts | rules]

use std::time::Duration;

use trine::{Bus, Changes, Error, Key, RequestId, Resource, ServiceOptions, Unheld, WorkerOptions};

fn name_of<T>(result: Result<T, Error>) -> &'static str {
    result.map_or_else(|error| error.status().name(), |_| "OK")
}

fn stand_still() -> ! {
    loop {
        std::thread::park();
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [bus, first, last] = &arguments[1..4] else {
        return Err("worker BUS FIRST LAST [parts | rules]".into());
    };
    let worker = Bus::at(bus).worker(WorkerOptions::default())?;
    let rules = ServiceOptions::default().idempotent(["retry"]).stall(Duration::from_secs(1));
    let has_rules = arguments.get(4).is_some_and(|role| role == "rules");
    if has_rules {
        // Alone, since the most patient service decides.
        worker.provide_with("rules", &["stall", "retry"], rules)?;
    } else if arguments.len() < 5 {
        let operations =
            ["echo", "mirror", "fail", "hold", "held", "release", "note", "noted", "die", "key", "refusals"];
        worker.provide("conformance", &operations)?;
        worker.provide_with("exclusive", &["echo"], ServiceOptions::default().exclusive(Unheld::Error))?;
        worker.provide_with("patient", &["echo"], ServiceOptions::default().exclusive(Unheld::Wait))?;
    } else {
        worker.provide("slow", &["block"])?;
    }
    if !has_rules {
        let mine = ServiceOptions::default().resource(first.parse::<u64>()?..=last.parse::<u64>()?);
        worker.provide_with("parts", &["sum"], mine)?;
    }
    println!("serving");
    let (mut kept, mut noted) = (Vec::<RequestId>::new(), Vec::new());
    worker.serve(|request| match request.operation().as_str() {
        "echo" => {
            let bytes = request.bytes().to_vec();
            request.reply(&bytes)
        }
        "mirror" => {
            let len = request.bytes().len();
            request.reply_with(len, |from, to| {
                let (mut piece, mut at) = ([0; 4096], 0);
                while at < len {
                    let count = from.read_at(at, &mut piece);
                    to.write_at(at, &piece[..count]);
                    at += count.max(1);
                }
            })
        }
        "fail" => {
            let message = request.bytes().to_vec();
            request.fail(7, &String::from_utf8_lossy(&message))
        }
        "hold" => {
            let (served, request) = request.keep();
            kept.push(request.detach());
            served
        }
        "held" => {
            let cancelled = kept.iter().filter(|&&id| {
                let Some(request) = worker.request(id) else { return true };
                let cancelled = request.is_cancelled();
                let _ = request.detach();
                cancelled
            });
            let text = format!("{} {}", kept.len(), cancelled.count());
            request.reply(text.as_bytes())
        }
        "release" => {
            for id in kept.drain(..) {
                let _ = worker.request(id).map(|request| request.reply(b"released"));
            }
            request.reply(b"")
        }
        "note" => {
            noted = request.bytes().to_vec();
            request.reply(b"")
        }
        "noted" => request.reply(&noted),
        "die" => std::process::exit(9),
        "block" => {
            println!("blocked");
            stand_still()
        }
        "stall" => stand_still(),
        // Whoever comes first dies.
        "retry" => {
            let name = String::from_utf8_lossy(&request.bytes().to_vec()).into_owned();
            if std::fs::File::create_new(name).is_ok() {
                std::process::exit(9);
            }
            request.reply(b"again")
        }
        "key" => {
            let text = match request.key() {
                None => "none".to_owned(),
                Some(key) => key.as_number().map_or("name".to_owned(), |number| format!("number {number}")),
            };
            request.reply(text.as_bytes())
        }
        "refusals" => {
            let backwards = Resource::Range { first: 2, last: 1 };
            let text = [
                name_of(worker.change("parts", Changes::new().withdraw(77))),
                name_of(worker.acquire("exclusive", backwards)),
                name_of(worker.release("exclusive", 77)),
                name_of(worker.acquire("nothing", 77)),
            ];
            request.reply(text.join(" ").as_bytes())
        }
        "sum" => {
            let total: u64 = request.keys().into_iter().filter_map(Key::as_number).sum();
            request.reply(total.to_string().as_bytes())
        }
        _ => request.fail(0, "what is that?"),
    })?;
    Ok(())
}
