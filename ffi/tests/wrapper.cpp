// trine.hpp, all of it, in one program: wrapper FOLDER/
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <poll.h>
#include <thread>
#include <trine.hpp>

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                       \
            std::abort();                                                                                              \
        }                                                                                                              \
    } while (0)

struct point {
    std::int32_t x, y;
};

static_assert(!std::is_copy_constructible_v<trine::client> && std::is_nothrow_move_constructible_v<trine::client>);
static_assert(!std::is_copy_constructible_v<trine::worker> && std::is_nothrow_move_constructible_v<trine::worker>);
static_assert(!std::is_copy_constructible_v<trine::reply> && std::is_nothrow_move_assignable_v<trine::reply>);
static_assert(!std::is_copy_constructible_v<trine::pending> && std::is_nothrow_move_assignable_v<trine::pending>);
static_assert(!std::is_copy_constructible_v<trine::loan> && std::is_nothrow_move_assignable_v<trine::loan>);
static_assert(!std::is_copy_constructible_v<trine::request> && std::is_nothrow_move_assignable_v<trine::request>);

enum { MIRROR, BUILD, FAIL, THROW, DROP, LINGER };

// Told by the worker's thread: it has begun a call that nobody answers until it is given up.
static std::atomic<bool> lingers{false};

static void handle(trine::request &request) {
    switch (request.operation()) {
    case MIRROR: {
        const auto p = request.as<point>();
        return request.reply_as(point{p.y, p.x});
    }
    case BUILD: {
        const auto out = request.out();
        CHECK(out.size() >= request.data().size());
        for (std::size_t i = 0; i < request.data().size(); i++) out[i] = request.data()[i] ^ std::byte{0xff};
        return request.reply_built(request.data().size());
    }
    case FAIL: return request.fail(7, "no, thank you");
    case THROW: throw std::runtime_error("a mistake");
    case LINGER:
        CHECK(!request.is_cancelled());
        lingers = true;
        while (!request.is_cancelled()) std::this_thread::yield();
        return;
    default: return;
    }
}

static trine_status status_of(trine::client &client, trine_route route, std::string_view data) {
    try {
        client.call(route, data);
    } catch (const trine::error &error) {
        CHECK(error.may_have_run());
        return error.status();
    }
    return TRINE_OK;
}

int main(int, char **argv) {
    const std::string bus = argv[1];
    bool refused = false;
    try {
        trine::client none(bus);
    } catch (const trine::error &error) {
        refused = error.status() == TRINE_DIRECTOR_GONE && !error.may_have_run();
    }
    CHECK(refused);

    trine::director director(bus);
    trine::worker worker(bus);
    CHECK(worker.provide("test", {"mirror", "build", "fail", "throw", "drop", "linger"}) == MIRROR);
    CHECK(!worker.next(std::chrono::milliseconds(1)));
    std::thread serving([&] { worker.serve(handle); });

    trine::client first(bus);
    trine::client client(std::move(first));
    const auto route = [&](const char *name) { return client.route("test", name); };
    const auto mirrored = client.call_as<point>(route("mirror"), point{1, -2});
    CHECK(mirrored.x == -2 && mirrored.y == 1);
    CHECK(status_of(client, route("mirror"), "three") == TRINE_WORKER_ERROR);
    CHECK(status_of(client, route("throw"), "") == TRINE_WORKER_ERROR);
    CHECK(status_of(client, route("drop"), "") == TRINE_WORKER_ERROR);
    try {
        client.call(route("fail"), "");
        CHECK(false);
    } catch (const trine::error &error) {
        CHECK(error.code() == 7 && error.message() == "no, thank you");
        CHECK(std::string(error.what()) == "WORKER_ERROR: no, thank you");
    }

    const std::size_t large = 100000;
    const auto build = route("build");
    auto loan = client.loan(build, large);
    for (auto &byte : loan.data()) byte = std::byte{1};
    auto unsent = client.loan(build, 10);
    unsent = client.loan(build, 20);
    auto kept = loan.submit(trine::args().room(large).deadline(std::chrono::seconds(20))).wait();
    CHECK(kept.data().size() == large && kept.data()[large - 1] == std::byte{0xfe});
    auto small = client.call(build, std::vector<std::int16_t>{0, 1});
    CHECK(small.data().size() == 4 && small.data()[0] == std::byte{0xff});
    std::swap(kept, small);
    CHECK(small.data().size() == large && kept.data().size() == 4);

    // A call that is dropped is given up, and its worker hears of that.
    auto dropped = client.submit(route("linger"), "");
    while (!lingers) std::this_thread::yield();
    dropped = client.submit(build, "kept");
    CHECK(dropped.wait().text().size() == 4);
    client.post(build, "one way");

    // As an event loop.
    const auto ticket = client.submit(build, "later").detach();
    for (;;) {
        if (auto ended = client.wait_any(trine::timeout::none())) {
            CHECK(ended->ticket() == ticket && ended->text().size() == 5);
            break;
        }
        if (!client.arm()) continue;
        pollfd descriptor{client.fd(), POLLIN, 0};
        CHECK(poll(&descriptor, 1, 20000) == 1);
        client.disarm();
    }
    CHECK(!client.wait_any());

    worker.wake();
    serving.join();
    worker.withdraw("test");

    // Keys, rights, and how they are lost; how a worker leaves.
    std::vector<trine::event> heard;
    const auto hear = [&](const trine::event &event) { heard.push_back(event); };
    const auto exclusive = trine::service().policy(TRINE_AFFINITY).exclusive(TRINE_UNHELD_ERROR);
    trine::worker other(bus);
    worker.on_event(hear);
    other.on_event(hear);
    const auto first_number = worker.provide("files", {"owner"}, exclusive);
    CHECK(first_number == LINGER + 1 && other.provide("files", {"owner"}, exclusive) == 0);
    const auto name = client.key("/etc/hosts");
    CHECK(name.is_name() && name == worker.key("/etc/hosts") && name != trine::key(name.word));
    CHECK(worker.acquire("files", name) && worker.holds("files") == std::vector<trine::resource>{name});
    const auto owner = client.route("files", "owner");
    auto asked = client.submit(owner, "", trine::args().about(name).with(TRINE_HIGH | TRINE_TRACED));
    auto request = worker.next();
    CHECK(request && request->key() == name && !other.acquire("files", name));
    request->reply_as(worker.id());
    CHECK(asked.wait().as<std::uint64_t>() == worker.id());
    while (heard.size() < 3) {
        CHECK(!worker.next(std::chrono::milliseconds(1)) && !other.next(std::chrono::milliseconds(1)));
    }
    CHECK(heard[0].kind == TRINE_GAINED && heard[1].kind == TRINE_LOST && heard[2].kind == TRINE_GAINED);
    CHECK(heard[2].service == "files" && heard[2].resource == trine::resource(name));
    CHECK(worker.holds("files").empty());
    other.release("files", name);
    other.change("files", trine::changes().declare(trine::resource::range(0, 9)).acquire(trine::resource::number(3)));
    CHECK(other.holds("files").size() == 2 || heard.back().kind == TRINE_GAINED);
    // One request to several workers.
    trine::worker third(bus);
    const trine::service of_third = trine::service().speaks_for(trine::resource::range(10, 19));
    const trine::service of_other = trine::service().speaks_for(trine::resource::range(0, 9));
    third.provide("parts", {"sum"}, of_third);
    other.provide("parts", {"sum"}, of_other);
    const auto sum = client.route("parts", "sum");
    auto build_here = client.loan(sum, 80);
    auto parts = build_here.scatter({1, 11, 2});
    for (auto *serving : {&third, &other}) {
        auto one = serving->next();
        CHECK(one && one->is_part() && one->data().size() == 80);
        const auto keys = one->keys();
        if (serving == &third) {
            CHECK(keys.size() == 1);
            one->fail(9, "no");
        } else {
            one->reply_as(keys[0].word + keys[1].word);
        }
    }
    const auto total = parts.gather(std::uint64_t{0}, [](std::uint64_t so_far, trine::part part) {
        if (part.failure) {
            CHECK(part.failure->code() == 9 && part.key_mask == 2);
            return so_far + 100;
        }
        return so_far + part.result->as<std::uint64_t>();
    });
    CHECK(total == 103 && parts.count() == 2u && parts.is_done());
    auto given_up = client.scatter_all(sum, "");
    auto of_nothing = client.scatter(sum, {}, "");
    CHECK(of_nothing.is_done() && !of_nothing.next() && !given_up.is_done());
    given_up.cancel();

    worker.drain();
    CHECK(!worker.next() && worker.is_drained());
    std::puts("as it should be");
}
