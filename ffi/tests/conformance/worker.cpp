// The conformance worker: worker BUS FIRST LAST [parts | rules]
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <trine.hpp>
#include <unistd.h>

enum { ECHO, MIRROR, FAIL, HOLD, HELD, RELEASE, NOTE, NOTED, DIE, KEY, REFUSALS, ONLY_ECHO };

static std::string name_of(const std::function<void()> &action) {
    try {
        action();
    } catch (const trine::error &error) {
        return trine_status_name(error.status());
    }
    return "OK";
}

static void stand_still() {
    for (;;) pause();
}

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    trine::worker worker(argv[1]);
    std::vector<trine::request> kept;
    std::string noted;
    const bool whole = argc < 5, has_rules = argc > 4 && std::string(argv[4]) == "rules";
    if (whole) {
        worker.provide("conformance", {"echo", "mirror", "fail", "hold", "held", "release", "note", "noted", "die", "key",
                                       "refusals"});
        worker.provide("exclusive", {"echo"}, trine::service().exclusive(TRINE_UNHELD_ERROR));
        worker.provide("patient", {"echo"}, trine::service().exclusive(TRINE_UNHELD_WAIT));
    }
    const auto rules = trine::service().idempotent("retry").stall(std::chrono::seconds(1));
    const auto rule = has_rules ? worker.provide("rules", {"stall", "retry"}, rules) : UINT32_MAX - 1;
    const auto slow = whole || has_rules ? UINT32_MAX : worker.provide("slow", {"block"});
    const auto mine = trine::resource::range(std::strtoull(argv[2], nullptr, 10), std::strtoull(argv[3], nullptr, 10));
    // Alone, since the most patient service decides.
    const auto sum = has_rules ? UINT32_MAX - 3 : worker.provide("parts", {"sum"}, trine::service().speaks_for(mine));
    std::puts("serving");
    std::fflush(stdout);
    worker.serve([&](trine::request &request) {
        if (request.operation() == sum) {
            std::uint64_t total = 0;
            for (const auto &key : request.keys()) total += key.word;
            return request.reply(std::to_string(total));
        }
        if (request.operation() == slow) {
            std::puts("blocked");
            std::fflush(stdout);
            stand_still();
        }
        if (request.operation() == rule) stand_still();
        if (request.operation() == rule + 1) {
            const std::string name(request.text());
            if (open(name.c_str(), O_CREAT | O_EXCL | O_WRONLY, 0600) >= 0) _exit(9); // whoever comes first dies
            return request.reply("again");
        }
        switch (request.operation()) {
        case ECHO:
        case ONLY_ECHO: return request.reply({request.data().data(), request.data().size()});
        case MIRROR: {
            const auto size = request.data().size();
            if (request.out().size() < size) return request.reply({request.data().data(), size});
            if (size) std::memcpy(request.out().data(), request.data().data(), size);
            return request.reply_built(size);
        }
        case FAIL: return request.fail(7, std::string(request.text()));
        case HOLD: kept.push_back(std::move(request)); return;
        case HELD: {
            std::size_t cancelled = 0;
            for (const auto &each : kept) cancelled += each.is_cancelled();
            return request.reply(std::to_string(kept.size()) + " " + std::to_string(cancelled));
        }
        case RELEASE:
            for (auto &each : kept) each.reply("released");
            kept.clear();
            return request.reply("");
        case NOTE: noted = request.text(); return request.reply("");
        case NOTED: return request.reply(noted);
        case DIE: _exit(9);
        case KEY: {
            const auto key = request.key();
            if (!key) return request.reply("none");
            return request.reply(key->is_name() ? std::string("name") : "number " + std::to_string(key->word));
        }
        case REFUSALS: {
            const auto one = trine::resource::number(77);
            return request.reply(
                name_of([&] { worker.change("parts", trine::changes().withdraw(one)); }) + " "
                + name_of([&] { worker.acquire("exclusive", trine::resource::range(2, 1)); }) + " "
                + name_of([&] { worker.release("exclusive", one); }) + " "
                + name_of([&] { worker.acquire("nothing", one); }));
        }
        default: return;
        }
    });
}
