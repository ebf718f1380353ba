// A key-value service: keyvalue_service [BUS]. It serves until SIGINT or SIGTERM.
//
// A request is a key, a zero byte, and for `put` a value: as in the other languages' examples.
#include <csignal>
#include <iostream>
#include <string>
#include <trine.hpp>
#include <unordered_map>

static trine_worker *to_wake;
extern "C" void on_signal(int) { trine_wake(to_wake); }

int main(int argc, char **argv) try {
    trine::worker worker(argc > 1 ? argv[1] : "");
    const auto get = worker.provide("store", {"get", "put"});
    to_wake = worker.get();
    std::signal(SIGINT, on_signal);
    std::signal(SIGTERM, on_signal);
    std::cout << "serving" << std::endl;

    std::unordered_map<std::string, std::string> store;
    worker.serve([&](trine::request &request) {
        const std::string bytes(request.text()); // copy, then check
        const auto end = bytes.find('\0');
        if (end == std::string::npos) return request.fail(400, "a request is a key, a zero byte, and a value");
        const auto key = bytes.substr(0, end);
        if (request.operation() != get) {
            store[key] = bytes.substr(end + 1);
            return request.reply("");
        }
        const auto found = store.find(key);
        if (found == store.end()) return request.fail(404, "no such key");
        request.reply(found->second);
    });
    std::signal(SIGINT, SIG_DFL);
    std::signal(SIGTERM, SIG_DFL);
    return 0;
} catch (const trine::error &error) {
    std::cerr << error.what() << '\n';
    return 1;
}
