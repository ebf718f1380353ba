// The conformance client: client BUS, with a command a line on its standard input.
#include <algorithm>
#include <csignal>
#include <iostream>
#include <sstream>
#include <sys/time.h>
#include <sys/wait.h>
#include <trine.hpp>
#include <unistd.h>

static trine::options with(std::uint32_t slots) {
    trine::options options;
    options.slots = slots;
    options.director_gone_ns = 500 * 1000 * 1000;
    return options;
}

static std::string said(const trine::error &error) {
    std::ostringstream text;
    text << trine_status_name(error.status()) << " ran=" << error.may_have_run() << " code=" << error.code()
         << " needed=" << error.needed();
    if (error.status() == TRINE_WORKER_ERROR) text << ' ' << error.message();
    return text.str();
}

static std::string pattern(std::size_t size) {
    std::string bytes(size, 0);
    for (std::size_t i = 0; i < size; i++) bytes[i] = static_cast<char>(i % 251);
    return bytes;
}

static std::string text_of(const trine::reply &reply) {
    return reply.text().empty() ? "OK" : "OK " + std::string(reply.text());
}

static std::string compared(const trine::reply &reply, const std::string &expected) {
    return "OK " + std::to_string(reply.data().size()) + (reply.text() == expected ? " same" : " other");
}

class conformance {
public:
    explicit conformance(const std::string &bus) : client_(bus, with(8)), helper_(bus) {}

    std::string obey(const std::string &command, const std::string &rest) {
        try {
            return run(command, rest);
        } catch (const trine::error &error) {
            return said(error);
        }
    }

private:
    std::string run(const std::string &command, const std::string &rest) {
        const auto blank = rest.find(' ');
        const auto first = rest.substr(0, blank), second = blank == std::string::npos ? "" : rest.substr(blank + 1);
        const std::size_t number = rest.empty() || !std::isdigit(rest[0]) ? 0 : std::stoull(first);
        if (command == "names") return names();
        if (command == "echo") return echo(number, trine::args().room(number ? number : 1));
        if (command == "narrow") return echo(number, trine::args());
        if (command == "huge") return echo(std::size_t(65) << 20, trine::args());
        if (command == "mirror") return mirror(number);
        if (command == "text") return text_of(client_.call(route(first), second));
        if (command == "route") return client_.route(first, second), "OK";
        if (command == "deadline") return deadline();
        if (command == "poll") return poll();
        if (command == "cancel") return cancel();
        if (command == "full") return full();
        if (command == "post") {
            client_.post(route("note"), rest);
            return text_of(client_.call(route("noted"), ""));
        }
        if (command == "interrupt") return interrupt();
        if (command == "fork") return forked();
        if (command == "key") return key(first, second);
        if (command == "unheld") {
            return text_of(client_.call(client_.route("exclusive", "echo"), "", trine::args().about(1)));
        }
        if (command == "scatter") return gathered(scatter(rest));
        if (command == "crowd") return crowd();
        if (command == "connect") return connected(rest);
        if (command == "begin") return begun_.emplace(client_.submit(client_.route(first, second), "")), "OK";
        if (command == "end") return end();
        if (command == "begin_scatter") return scattered_.emplace(scatter(rest)), "OK";
        if (command == "end_scatter") return gathered(std::move(*scattered_));
        if (command == "scatter_all") {
            return gathered(client_.scatter_all(client_.route("parts", "sum"), "", static_cast<std::uint32_t>(number)));
        }
        std::exit(2);
    }

    trine_route route(const std::string &operation) { return client_.route("conformance", operation); }

    static std::string names() {
        std::string all;
        for (int i = 0; std::string(trine_status_name(i)) != "UNKNOWN"; i++) {
            all += (i ? " " : "") + std::string(trine_status_name(i));
        }
        return all;
    }

    std::string echo(std::size_t size, const trine::args &args) {
        const auto bytes = pattern(size);
        return compared(client_.call(route("echo"), bytes, args), bytes);
    }

    std::string mirror(std::size_t size) {
        const auto bytes = pattern(size);
        auto loan = client_.loan(route("mirror"), size);
        if (size) std::memcpy(loan.data().data(), bytes.data(), size);
        return compared(loan.submit(trine::args().room(size ? size : 1)).wait(), bytes);
    }

    // By another client: this one may have no slot free.
    std::string ask(const std::string &operation) {
        return std::string(helper_.call(helper_.route("conformance", operation), "").text());
    }
    void until_held(const std::string &expected) {
        while (ask("held") != expected) usleep(1000);
    }
    trine::pending hold(trine::timeout time = trine::timeout::forever()) {
        return client_.submit(route("hold"), "", trine::args(), time);
    }

    std::string deadline() {
        std::string ended = "OK";
        try {
            client_.call(route("hold"), "", trine::args().deadline(std::chrono::milliseconds(20)));
        } catch (const trine::error &error) {
            ended = said(error);
        }
        ask("release");
        return ended;
    }

    std::string poll() {
        auto pending = hold();
        until_held("1 0");
        const std::string seen = pending.poll() ? "OK" : "WOULD_BLOCK";
        ask("release");
        return seen + " " + text_of(pending.wait());
    }

    std::string cancel() {
        auto pending = hold();
        until_held("1 0");
        pending.cancel();
        until_held("1 1");
        const auto ended = "OK " + ask("held");
        ask("release");
        return ended;
    }

    std::string full() {
        std::vector<trine::pending> pending;
        std::string ended;
        try {
            for (;;) pending.push_back(hold(trine::timeout::none()));
        } catch (const trine::error &error) {
            ended = std::to_string(pending.size()) + " " + said(error);
        }
        until_held("8 0"); // what is not begun when it is given up never is
        pending.clear();
        until_held("8 8");
        ask("release");
        return ended;
    }

    std::string interrupt() {
        const itimerval soon{{0, 5000}, {0, 5000}}, never{};
        auto pending = hold();
        until_held("1 0");
        std::signal(SIGALRM, [](int) {});
        setitimer(ITIMER_REAL, &soon, nullptr);
        const std::string seen = pending.wait_for(trine::timeout::forever()) ? "OK" : "INTERRUPTED";
        setitimer(ITIMER_REAL, &never, nullptr);
        ask("release");
        return seen + " " + text_of(pending.wait());
    }

    std::string forked() {
        const auto to = route("echo");
        std::cout.flush();
        const auto child = fork();
        if (child == 0) {
            try {
                client_.call(to, "");
            } catch (const trine::error &error) {
                _exit(error.status());
            }
            _exit(0);
        }
        int status = 0;
        waitpid(child, &status, 0);
        return trine_status_name(WEXITSTATUS(status));
    }

    std::string key(const std::string &kind, const std::string &word) {
        trine::args args;
        if (kind == "number") args.about(std::stoull(word));
        if (kind == "name") args.about(client_.key(word));
        return text_of(client_.call(route("key"), "", args));
    }

    // As many calls as may wait on a resource that nobody holds, and one more.
    std::string crowd() {
        const auto to = helper_.route("patient", "echo");
        const auto about = trine::args().about(1);
        std::vector<trine::pending> waiting;
        while (waiting.size() < 8) waiting.push_back(helper_.submit(to, "", about));
        try {
            return "8 " + text_of(helper_.call(to, "", about));
        } catch (const trine::error &error) {
            return "8 " + said(error);
        }
    }

    static std::string connected(const std::string &bus) {
        try {
            trine::client other(bus);
        } catch (const trine::error &error) {
            return trine_status_name(error.status());
        }
        return "OK";
    }

    std::string end() {
        auto pending = std::move(*begun_);
        begun_.reset();
        return text_of(pending.wait());
    }

    trine::parts scatter(const std::string &rest) {
        std::istringstream words(rest);
        std::vector<trine::key> keys;
        for (std::uint64_t number; words >> number;) keys.push_back(number);
        return client_.scatter(client_.route("parts", "sum"), keys, "");
    }

    static std::string gathered(trine::parts parts) {
        auto all = parts.gather(std::vector<std::string>(), [](std::vector<std::string> so_far, trine::part part) {
            auto text = std::to_string(part.key_mask) + ":";
            text += part.failure ? trine_status_name(part.failure->status()) : "OK:" + std::string(part.result->text());
            so_far.push_back(text);
            return so_far;
        });
        std::sort(all.begin(), all.end());
        auto text = std::to_string(all.size());
        for (const auto &each : all) text += " " + each;
        return text;
    }

    trine::client client_, helper_;
    // What was begun, and is to be waited for by a later command.
    std::optional<trine::pending> begun_;
    std::optional<trine::parts> scattered_;
};

int main(int, char **argv) {
    conformance tests(argv[1]);
    for (std::string line; std::getline(std::cin, line);) {
        const auto blank = line.find(' ');
        std::cout << tests.obey(line.substr(0, blank), blank == std::string::npos ? "" : line.substr(blank + 1))
                  << std::endl;
    }
}
