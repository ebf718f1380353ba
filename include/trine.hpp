// trine.hpp: trine.h for C++17, in one header. The rules at the head of trine.h hold here, too.
//
// Everything that owns is move-only and gives back what it owns: a reply its buffer, a loan its memory, an open call is
// given up, a request that nobody answered ends with TRINE_WORKER_ERROR. What comes from a client or a worker must not
// outlive it.
//
// Failures are exceptions. Most are found where there is nothing to return (a client that can't connect), or at the far
// end of a call whose result is a value, and a status that is dropped by mistake is a bug that nobody sees. What is no
// failure is no exception: nothing ended yet, no request came, a signal ended the wait are an empty std::optional.
//
//     trine::client client;
//     auto upper = client.route("text", "upper");
//     std::cout << client.call(upper, "hello").text() << '\n';
#ifndef TRINE_HPP
#define TRINE_HPP

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "trine.h"

namespace trine {

// A pointer and a length: what std::span is from C++20 on.
template <typename T>
class span {
public:
    constexpr span() noexcept = default;
    constexpr span(T *data, std::size_t size) noexcept : data_(data), size_(size) {}
    constexpr T *data() const noexcept { return data_; }
    constexpr std::size_t size() const noexcept { return size_; }
    constexpr bool empty() const noexcept { return size_ == 0; }
    constexpr T *begin() const noexcept { return data_; }
    constexpr T *end() const noexcept { return data_ + size_; }
    constexpr T &operator[](std::size_t i) const noexcept { return data_[i]; }

private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};

// Why something could not be done. what() is the sentence, after the status's name.
class error : public std::runtime_error {
public:
    error(trine_status status, std::string message, const trine_reply *reply = nullptr)
        : std::runtime_error(std::string(trine_status_name(status)) + ": " + message), status_(status),
          message_(std::move(message)) {
        if (reply) {
            may_have_run_ = (reply->flags & TRINE_RAN) != 0;
            code_ = reply->code;
            needed_ = reply->needed;
        }
    }
    trine_status status() const noexcept { return status_; }
    // With TRINE_WORKER_ERROR: the worker's own words.
    const std::string &message() const noexcept { return message_; }
    // Whether the operation may have run. false is a promise: it did not, and never will.
    bool may_have_run() const noexcept { return may_have_run_; }
    // With TRINE_WORKER_ERROR: the worker's own number.
    std::uint32_t code() const noexcept { return code_; }
    // With TRINE_REPLY_TOO_LARGE: the room that the result needs.
    std::uint64_t needed() const noexcept { return needed_; }

private:
    trine_status status_;
    std::string message_;
    bool may_have_run_ = false;
    std::uint32_t code_ = 0;
    std::uint64_t needed_ = 0;
};

// Bytes to be sent: a string, a vector of plain values, or a pointer and a length.
class bytes {
public:
    bytes() noexcept = default;
    bytes(const void *data, std::size_t size) noexcept : data_(data), size_(size) {}
    bytes(std::string_view text) noexcept : data_(text.data()), size_(text.size()) {}
    bytes(const std::string &text) noexcept : data_(text.data()), size_(text.size()) {}
    bytes(const char *text) noexcept : data_(text), size_(std::strlen(text)) {}
    template <typename T, typename = std::enable_if_t<std::is_trivially_copyable_v<T>>>
    bytes(const std::vector<T> &values) noexcept : data_(values.data()), size_(values.size() * sizeof(T)) {}
    template <typename T, typename = std::enable_if_t<std::is_trivially_copyable_v<T>>>
    bytes(span<T> values) noexcept : data_(values.data()), size_(values.size() * sizeof(T)) {}
    const void *data() const noexcept { return data_; }
    std::size_t size() const noexcept { return size_; }

private:
    const void *data_ = nullptr;
    std::size_t size_ = 0;
};

// How long to wait: nothing is not at all.
class timeout {
public:
    template <typename Rep, typename Period>
    timeout(std::chrono::duration<Rep, Period> for_so_long) noexcept
        : ns_(for_so_long.count() < 0 ? 0 : std::chrono::duration_cast<std::chrono::nanoseconds>(for_so_long).count()) {}
    static timeout none() noexcept { return timeout(std::chrono::nanoseconds(0)); }
    static timeout forever() noexcept { return timeout(std::chrono::nanoseconds(TRINE_FOREVER)); }
    std::int64_t ns() const noexcept { return ns_; }

private:
    std::int64_t ns_;
};

// An empty C struct that knows its size.
template <typename T>
T sized() noexcept {
    T value{};
    value.size = sizeof(T);
    return value;
}

// trine_options, ready to be filled in.
struct options : trine_options {
    options() noexcept : trine_options(sized<trine_options>()) {}
};

// One resource of a service: a number, or a name, as client::key() and worker::key() give it.
struct key : trine_key {
    key() noexcept : trine_key{} {}
    key(std::uint64_t number) noexcept : trine_key{number, TRINE_NUMBER, 0} {}
    key(const trine_key &other) noexcept : trine_key(other) {}
    bool is_name() const noexcept { return kind == TRINE_NAME; }
    friend bool operator==(const key &a, const key &b) noexcept { return a.kind == b.kind && a.word == b.word; }
    friend bool operator!=(const key &a, const key &b) noexcept { return !(a == b); }
};

// Resources of a service that a worker speaks for, or holds.
struct resource : trine_resource {
    resource() noexcept : trine_resource{} {}
    resource(const trine_resource &other) noexcept : trine_resource(other) {}
    resource(const trine::key &one) noexcept : trine_resource{one.kind, 0, one.word, one.word} {}
    static resource number(std::uint64_t number) noexcept { return trine::key(number); }
    static resource range(std::uint64_t first, std::uint64_t last) noexcept {
        return trine_resource{TRINE_RANGE, 0, first, last};
    }
    static resource share(std::uint32_t index, std::uint32_t of) noexcept {
        return trine_resource{TRINE_SHARE, 0, index, of};
    }
    static resource all() noexcept { return trine_resource{TRINE_ALL, 0, 0, 0}; }
    friend bool operator==(const resource &a, const resource &b) noexcept {
        return a.kind == b.kind && a.first == b.first && a.last == b.last;
    }
};

// trine_call_args, ready to be filled in.
struct args : trine_call_args {
    args() noexcept : trine_call_args(sized<trine_call_args>()) {}
    args &about(const trine::key &resource) noexcept {
        key = resource;
        return *this;
    }
    // TRINE_HIGH, TRINE_LOW, TRINE_TRACED.
    args &with(std::uint32_t more_flags) noexcept {
        flags |= more_flags;
        return *this;
    }
    args &deadline(std::chrono::nanoseconds from_now) noexcept {
        deadline_ns = from_now.count();
        return *this;
    }
    args &room(std::uint64_t bytes_of_reply) noexcept {
        reply_capacity = bytes_of_reply;
        return *this;
    }
};

// What can be chosen when a worker provides a service; nothing chosen is the default of each.
class service {
public:
    // TRINE_JBSQ, and so on.
    service &policy(std::uint32_t policy) noexcept {
        options_.policy = policy;
        return *this;
    }
    // TRINE_UNHELD_…: a call with a key goes to the key's holder alone.
    service &exclusive(std::uint32_t unheld) noexcept {
        options_.unheld = unheld;
        return *this;
    }
    // What this worker speaks for; nothing said is all of it.
    service &speaks_for(const trine::resource &more) {
        resources_.push_back(more);
        return *this;
    }
    // An operation that may run more than once: a call of it whose worker died after it had begun runs again at another
    // one, three times in all at most.
    service &idempotent(std::string operation) {
        idempotent_.push_back(std::move(operation));
        return *this;
    }
    // How long a worker that has one of its calls in its hands may show no sign of life before they end with
    // TRINE_MAY_HAVE_RUN: in whole milliseconds, at least one. std::chrono::nanoseconds::max(): for ever. The most patient
    // of its services decides.
    service &stall(std::chrono::nanoseconds after) noexcept {
        options_.stall_ns = after.count();
        return *this;
    }
    // For a list of operations. Valid as long as this is, and nothing is added.
    trine_service_options get(std::initializer_list<const char *> operations) const {
        auto options = options_;
        options.resources = resources_.data();
        options.resource_count = resources_.size();
        for (const auto &name : idempotent_) options.idempotent |= place(name, operations);
        return options;
    }

private:
    static std::uint64_t place(const std::string &name, std::initializer_list<const char *> operations) {
        std::uint64_t bit = 1;
        for (const auto *operation : operations) {
            if (name == operation) return bit;
            bit <<= 1;
        }
        throw std::invalid_argument(name + " is said to be idempotent, but is not provided");
    }

    trine_service_options options_ = sized<trine_service_options>();
    std::vector<trine_resource> resources_;
    std::vector<std::string> idempotent_;
};

// What a worker declares, withdraws, acquires and releases in one step: all of it or nothing.
class changes {
public:
    changes &declare(const trine::resource &what) { return add(TRINE_DECLARE, what); }
    changes &withdraw(const trine::resource &what) { return add(TRINE_WITHDRAW, what); }
    changes &acquire(const trine::resource &what) { return add(TRINE_ACQUIRE, what); }
    changes &release(const trine::resource &what) { return add(TRINE_RELEASE, what); }
    const std::vector<trine_step> &steps() const noexcept { return steps_; }

private:
    changes &add(std::uint32_t action, const trine::resource &what) {
        steps_.push_back(trine_step{action, 0, what});
        return *this;
    }
    std::vector<trine_step> steps_;
};

// What a worker is told, between its requests.
struct event {
    // TRINE_GAINED, TRINE_LOST, TRINE_DRAINING.
    std::uint32_t kind;
    std::string service;
    // Of a TRINE_LOST also all of it, where the worker has withdrawn the service.
    trine::resource resource;
};

namespace detail {

inline void check(trine_status status, const void *handle) {
    if (status != TRINE_OK) throw error(status, trine_error(handle));
}

inline const char *name(const std::string &bus) noexcept { return bus.empty() ? nullptr : bus.c_str(); }

template <typename T>
T value_of(const void *data, std::uint64_t len) {
    static_assert(std::is_trivially_copyable_v<T>, "only plain values have the same bytes everywhere");
    if (len != sizeof(T)) {
        throw error(TRINE_FAULT, std::to_string(len) + " bytes, not " + std::to_string(sizeof(T)));
    }
    T value;
    std::memcpy(&value, data, sizeof(T));
    return value;
}

struct close {
    void operator()(trine_client *client) const noexcept { trine_close(client); }
    void operator()(trine_worker *worker) const noexcept { trine_worker_close(worker); }
    void operator()(trine_director *director) const noexcept { trine_director_stop(director); }
};

} // namespace detail

// A result, read in place. It holds the buffer that it lies in.
class reply {
public:
    reply(trine_client *client, const trine_reply &held) noexcept : client_(client), held_(held) {}
    reply(reply &&other) noexcept : client_(std::exchange(other.client_, nullptr)), held_(other.held_) {}
    reply &operator=(reply &&other) noexcept {
        std::swap(client_, other.client_);
        std::swap(held_, other.held_);
        return *this;
    }
    ~reply() {
        if (client_) trine_reply_free(client_, &held_);
    }
    span<const std::byte> data() const noexcept {
        return {static_cast<const std::byte *>(held_.data), static_cast<std::size_t>(held_.len)};
    }
    std::string_view text() const noexcept {
        return {static_cast<const char *>(held_.data), static_cast<std::size_t>(held_.len)};
    }
    // A copy, if it has exactly as many bytes.
    template <typename T>
    T as() const {
        return detail::value_of<T>(held_.data, held_.len);
    }
    std::uint64_t worker() const noexcept { return held_.worker; }
    trine_ticket ticket() const noexcept { return held_.ticket; }

private:
    trine_client *client_;
    trine_reply held_;
};

// A call that is under way; given up when it is dropped.
class pending {
public:
    pending(trine_client *client, trine_ticket ticket) noexcept : client_(client), ticket_(ticket) {}
    pending(pending &&other) noexcept : client_(other.client_), ticket_(std::exchange(other.ticket_, 0)) {}
    pending &operator=(pending &&other) noexcept {
        std::swap(client_, other.client_);
        std::swap(ticket_, other.ticket_);
        return *this;
    }
    ~pending() { cancel(); }
    trine_ticket ticket() const noexcept { return ticket_; }
    // Nothing: it has not ended in time, or a signal ended the wait.
    std::optional<reply> wait_for(timeout time) {
        auto result = sized<trine_reply>();
        const auto status = trine_wait(client_, ticket_, time.ns(), &result);
        if (status == TRINE_WOULD_BLOCK || status == TRINE_INTERRUPTED) return std::nullopt;
        ticket_ = 0;
        if (status != TRINE_OK) throw error(status, trine_error(client_), &result);
        return reply(client_, result);
    }
    std::optional<reply> poll() { return wait_for(timeout::none()); }
    // Through signals; end it by a deadline.
    reply wait() {
        for (;;) {
            if (auto ended = wait_for(timeout::forever())) return std::move(*ended);
        }
    }
    void cancel() noexcept {
        if (ticket_ != 0) trine_cancel(client_, std::exchange(ticket_, 0));
    }
    // Lets go of it without giving it up.
    trine_ticket detach() noexcept { return std::exchange(ticket_, 0); }

private:
    trine_client *client_;
    trine_ticket ticket_;
};

// One part of a scatter, ended: one worker's answer, or what has become of it.
struct part {
    // Which keys of the list it is about, a bit for each place.
    std::uint64_t key_mask;
    std::optional<trine::reply> result;
    // Why there is none.
    std::optional<error> failure;
};

// A scatter that is under way: its parts, as they come. What is open is given up when it is dropped.
class parts {
public:
    parts(trine_client *client, trine_ticket ticket) noexcept : client_(client), ticket_(ticket), done_(ticket == 0) {}
    parts(parts &&other) noexcept
        : client_(other.client_), ticket_(std::exchange(other.ticket_, 0)), count_(other.count_), done_(other.done_) {}
    parts &operator=(parts &&other) noexcept {
        std::swap(client_, other.client_);
        std::swap(ticket_, other.ticket_);
        std::swap(count_, other.count_);
        std::swap(done_, other.done_);
        return *this;
    }
    ~parts() { cancel(); }
    trine_ticket ticket() const noexcept { return ticket_; }
    // How many there are in all: known from the first one on.
    std::optional<std::size_t> count() const noexcept { return count_; }
    bool is_done() const noexcept { return done_; }
    // Nothing: none has ended in time, a signal ended the wait, or there are no more.
    std::optional<part> wait_for(timeout time) {
        if (done_) return std::nullopt;
        auto result = sized<trine_reply>();
        const auto status = trine_wait(client_, ticket_, time.ns(), &result);
        if (result.parts) count_ = result.parts;
        if (status == TRINE_WOULD_BLOCK || status == TRINE_INTERRUPTED) return std::nullopt;
        if (status < 0) throw error(status, trine_error(client_));
        done_ = (result.flags & TRINE_LAST) != 0;
        if (status != TRINE_OK) return part{result.key_mask, std::nullopt, error(status, trine_error(client_), &result)};
        return part{result.key_mask, reply(client_, result), std::nullopt};
    }
    // Through signals, each by its deadline.
    std::optional<part> next() {
        for (;;) {
            auto ended = wait_for(timeout::forever());
            if (ended || done_) return ended;
        }
    }
    // All of them, folded as they come.
    template <typename A, typename Fold>
    A gather(A start, Fold fold) {
        while (auto ended = next()) start = fold(std::move(start), std::move(*ended));
        return start;
    }
    void cancel() noexcept {
        if (!done_ && ticket_ != 0) trine_cancel(client_, ticket_);
        done_ = true;
    }

private:
    trine_client *client_;
    trine_ticket ticket_;
    std::optional<std::size_t> count_;
    bool done_;
};

// Memory that the worker will read, to build a request in.
class loan {
public:
    loan(trine_client *client, void *start, std::size_t size) noexcept : client_(client), start_(start), size_(size) {}
    loan(loan &&other) noexcept
        : client_(other.client_), start_(std::exchange(other.start_, nullptr)), size_(other.size_) {}
    loan &operator=(loan &&other) noexcept {
        std::swap(client_, other.client_);
        std::swap(start_, other.start_);
        std::swap(size_, other.size_);
        return *this;
    }
    ~loan() {
        if (start_) trine_loan_free(client_, start_);
    }
    span<std::byte> data() const noexcept { return {static_cast<std::byte *>(start_), size_}; }
    // Sends its first bytes. It is gone then.
    pending submit(std::size_t len, const args &more = args(), timeout time = timeout::forever()) {
        trine_ticket ticket = 0;
        const auto status = trine_send_loan(client_, start_, len, &more, time.ns(), &ticket);
        if (status != TRINE_EINVAL) start_ = nullptr;
        detail::check(status, client_);
        return {client_, ticket};
    }
    pending submit(const args &more = args()) { return submit(size_, more); }
    // To the workers that have these keys. It is gone then.
    parts scatter(const std::vector<trine::key> &keys, const args &more = args(), timeout time = timeout::forever()) {
        const std::vector<trine_key> list(keys.begin(), keys.end());
        trine_ticket ticket = 0;
        const auto status =
            trine_scatter(client_, 0, list.data(), list.size(), start_, size_, &more, time.ns(), &ticket);
        return sent(status, ticket);
    }
    // To all workers. It is gone then.
    parts scatter_all(std::uint32_t most = 0, const args &more = args(), timeout time = timeout::forever()) {
        trine_ticket ticket = 0;
        return sent(trine_scatter_all(client_, 0, most, start_, size_, &more, time.ns(), &ticket), ticket);
    }

private:
    parts sent(trine_status status, trine_ticket ticket) {
        if (status != TRINE_EINVAL && ticket != 0) start_ = nullptr;
        detail::check(status, client_);
        return {client_, ticket};
    }
    trine_client *client_;
    void *start_;
    std::size_t size_;
};

// A client of a bus: of the default one, or of a name, or of a path with a slash in it. Used by one thread at a time.
class client {
public:
    explicit client(const std::string &bus = {}, const options &chosen = options()) {
        trine_client *made = nullptr;
        detail::check(trine_connect(detail::name(bus), &chosen, &made), nullptr);
        handle_.reset(made);
    }
    trine_client *get() const noexcept { return handle_.get(); }

    trine_route route(const std::string &service, const std::string &operation) {
        trine_route found = 0;
        detail::check(trine_route_of(get(), service.c_str(), operation.c_str(), &found), get());
        return found;
    }
    // The key of a resource's name, for args::about(). Once for each.
    trine::key key(const std::string &name) {
        trine_key found{};
        detail::check(trine_key_of(get(), name.c_str(), &found), get());
        return found;
    }
    reply call(trine_route route, bytes request, const args &more = args()) {
        auto result = sized<trine_reply>();
        auto status = trine_call(get(), route, request.data(), request.size(), &more, &result);
        while (status == TRINE_INTERRUPTED && result.ticket != 0) {
            status = trine_wait(get(), result.ticket, TRINE_FOREVER, &result);
        }
        if (status != TRINE_OK) throw error(status, trine_error(get()), &result);
        return reply(get(), result);
    }
    // With plain values: client.call_as<answer>(route, question{1, 2}).
    template <typename R, typename Q>
    R call_as(trine_route route, const Q &question, const args &more = args()) {
        static_assert(std::is_trivially_copyable_v<Q>, "only plain values have the same bytes everywhere");
        return call(route, bytes(&question, sizeof(Q)), more).template as<R>();
    }
    pending submit(trine_route route, bytes request, const args &more = args(), timeout time = timeout::forever()) {
        trine_ticket ticket = 0;
        detail::check(trine_submit(get(), route, request.data(), request.size(), &more, time.ns(), &ticket), get());
        return {get(), ticket};
    }
    // To the workers that have these keys, up to 64: a part for each, about those of the keys that it has.
    trine::parts scatter(trine_route route, const std::vector<trine::key> &keys, bytes request,
                         const args &more = args(), timeout time = timeout::forever()) {
        const std::vector<trine_key> list(keys.begin(), keys.end());
        trine_ticket ticket = 0;
        detail::check(trine_scatter(get(), route, list.data(), list.size(), request.data(), request.size(), &more,
                                    time.ns(), &ticket),
                      get());
        return {get(), ticket};
    }
    // To all workers that provide the operation, `most` of them at most; 0: as many as there are free slots.
    trine::parts scatter_all(trine_route route, bytes request, std::uint32_t most = 0, const args &more = args(),
                             timeout time = timeout::forever()) {
        trine_ticket ticket = 0;
        detail::check(
            trine_scatter_all(get(), route, most, request.data(), request.size(), &more, time.ns(), &ticket), get());
        return {get(), ticket};
    }
    // There is no reply. It runs once at most.
    void post(trine_route route, bytes request, const args &more = args(), timeout time = timeout::forever()) {
        detail::check(trine_post(get(), route, request.data(), request.size(), &more, time.ns()), get());
    }
    trine::loan loan(trine_route route, std::size_t size, timeout time = timeout::forever()) {
        void *start = nullptr;
        detail::check(trine_loan(get(), route, size, time.ns(), &start), get());
        return {get(), start, size};
    }
    // Whichever call ends first, of those that were detached. Nothing: none has ended, or is open.
    std::optional<reply> wait_any(timeout time = timeout::forever()) {
        return pending(get(), TRINE_ANY).wait_for(time);
    }

    // For an event loop: see the head of trine.h.
    int fd() const { return trine_client_fd(get()); }
    // Whether to sleep now.
    bool arm() {
        const auto status = trine_client_arm(get());
        if (status != TRINE_READY) detail::check(status, get());
        return status == TRINE_OK;
    }
    void disarm() { detail::check(trine_client_disarm(get()), get()); }

private:
    std::unique_ptr<trine_client, detail::close> handle_;
};

// A request: the right, and the duty, to answer it once. One that nobody answers ends with TRINE_WORKER_ERROR.
class request {
public:
    request(trine_worker *worker, const trine_incoming &incoming) noexcept : worker_(worker), incoming_(incoming) {}
    request(request &&other) noexcept : worker_(std::exchange(other.worker_, nullptr)), incoming_(other.incoming_) {}
    request &operator=(request &&other) noexcept {
        std::swap(worker_, other.worker_);
        std::swap(incoming_, other.incoming_);
        return *this;
    }
    ~request() {
        if (worker_) trine_fail(worker_, incoming_.request, 0, "the worker dropped the request");
    }
    // Which operation: worker::provide() numbers them.
    std::uint32_t operation() const noexcept { return incoming_.operation; }
    span<const std::byte> data() const noexcept {
        return {static_cast<const std::byte *>(incoming_.data), static_cast<std::size_t>(incoming_.len)};
    }
    std::string_view text() const noexcept {
        return {static_cast<const char *>(incoming_.data), static_cast<std::size_t>(incoming_.len)};
    }
    // A copy, if it has exactly as many bytes.
    template <typename T>
    T as() const {
        return detail::value_of<T>(incoming_.data, incoming_.len);
    }
    // The resource that it is about, if it names one.
    std::optional<trine::key> key() const noexcept {
        if (incoming_.key.kind == 0) return std::nullopt;
        return trine::key(incoming_.key);
    }
    // Whether others have a part of it, too.
    bool is_part() const noexcept { return (incoming_.flags & TRINE_PART) != 0; }
    // All that it is about: of a part, what this worker has of the caller's list.
    std::vector<trine::key> keys() const {
        std::vector<trine_key> about(64);
        std::size_t count = 0;
        detail::check(trine_request_keys(worker_, incoming_.request, about.data(), about.size(), &count), worker_);
        return {about.begin(), about.begin() + static_cast<std::ptrdiff_t>(count)};
    }
    // Deadline, caller, and the rest.
    const trine_incoming &about() const noexcept { return incoming_; }
    bool is_cancelled() const { return trine_is_cancelled(worker_, incoming_.request) != 0; }
    // Where the reply may be built, for reply_built().
    span<std::byte> out() const noexcept {
        return {static_cast<std::byte *>(incoming_.out),
                incoming_.out ? static_cast<std::size_t>(incoming_.out_capacity) : 0};
    }
    void reply(bytes result) { answer(result.data(), result.size()); }
    template <typename T>
    void reply_as(const T &value) {
        static_assert(std::is_trivially_copyable_v<T>, "only plain values have the same bytes everywhere");
        answer(&value, sizeof(T));
    }
    // What was built in out().
    void reply_built(std::size_t len) { answer(incoming_.out, len); }
    void fail(std::uint32_t code, const std::string &message) {
        detail::check(trine_fail(worker_, incoming_.request, code, message.c_str()), worker_);
        worker_ = nullptr;
    }

private:
    void answer(const void *data, std::size_t len) {
        detail::check(trine_answer(worker_, incoming_.request, data, len), worker_);
        worker_ = nullptr;
    }
    trine_worker *worker_;
    trine_incoming incoming_;
};

// A worker on a bus. Used by one thread at a time, but for wake().
class worker {
public:
    explicit worker(const std::string &bus = {}, const options &chosen = options()) {
        trine_worker *made = nullptr;
        detail::check(trine_worker_open(detail::name(bus), &chosen, &made), nullptr);
        handle_.reset(made);
    }
    trine_worker *get() const noexcept { return handle_.get(); }

    // Returns the number of the first operation; they count up from 0 over all services.
    std::uint32_t provide(const std::string &service, std::initializer_list<const char *> operations) {
        std::uint32_t first = 0;
        detail::check(trine_provide(get(), service.c_str(), operations.begin(), operations.size(), &first), get());
        return first;
    }
    std::uint32_t provide(const std::string &service, std::initializer_list<const char *> operations,
                          const trine::service &chosen) {
        std::uint32_t first = 0;
        const auto options = chosen.get(operations);
        detail::check(trine_provide_with(get(), service.c_str(), operations.begin(), operations.size(), &options, &first),
                      get());
        return first;
    }
    // All of it or nothing, while calls go on.
    void change(const std::string &service, const changes &what) {
        detail::check(trine_change(get(), service.c_str(), what.steps().data(), what.steps().size()), get());
    }
    // Whether it is held already; if not, another worker was asked to hand it over, and TRINE_GAINED will tell.
    bool acquire(const std::string &service, const trine::resource &what) {
        const auto status = trine_acquire(get(), service.c_str(), &what);
        if (status != TRINE_WOULD_BLOCK) detail::check(status, get());
        return status == TRINE_OK;
    }
    void release(const std::string &service, const trine::resource &what) {
        detail::check(trine_release(get(), service.c_str(), &what), get());
    }
    std::vector<trine::resource> holds(const std::string &service) {
        std::size_t count = 0;
        std::vector<trine_resource> held;
        do {
            held.resize(count);
            detail::check(trine_holds(get(), service.c_str(), held.data(), held.size(), &count), get());
        } while (count > held.size());
        return {held.begin(), held.begin() + static_cast<std::ptrdiff_t>(count)};
    }
    trine::key key(const std::string &name) {
        trine_key found{};
        detail::check(trine_worker_key_of(get(), name.c_str(), &found), get());
        return found;
    }
    // Takes no new work: once it has served what it was given, next() gives nothing any more, and serve() returns.
    void drain() { detail::check(trine_drain(get()), get()); }
    bool is_drained() const noexcept { return drained_; }
    // As replies name it.
    std::uint64_t id() const noexcept { return trine_worker_id(get()); }
    // Is called from within next() and serve(). It must not throw, nor use the worker.
    void on_event(std::function<void(const event &)> listener) {
        auto kept = std::make_unique<std::function<void(const event &)>>(std::move(listener));
        detail::check(trine_on_event(get(), hear, kept.get()), get());
        listener_ = std::move(kept);
    }
    void withdraw(const std::string &service) { detail::check(trine_withdraw(get(), service.c_str()), get()); }
    // Nothing: none came in time, or a signal or wake() ended the wait, or it is drained.
    std::optional<request> next(timeout time = timeout::forever()) {
        auto incoming = sized<trine_incoming>();
        const auto status = trine_next(get(), time.ns(), &incoming);
        drained_ = status == TRINE_DRAINED;
        if (status == TRINE_WOULD_BLOCK || status == TRINE_INTERRUPTED || drained_) return std::nullopt;
        detail::check(status, get());
        return request(get(), incoming);
    }
    // Until a signal, or wake(). What the handler throws, or doesn't answer, ends that call with TRINE_WORKER_ERROR.
    template <typename Handler>
    void serve(Handler handler) {
        while (auto incoming = next()) {
            try {
                handler(*incoming);
            } catch (const std::exception &) {
                // Dropped, and so answered.
            }
        }
    }
    // From any thread, and from a signal handler.
    void wake() const noexcept { trine_wake(get()); }

    // For an event loop: see the head of trine.h.
    int fd() const { return trine_worker_fd(get()); }
    // Whether to sleep now.
    bool arm() {
        const auto status = trine_worker_arm(get());
        if (status != TRINE_READY) detail::check(status, get());
        return status == TRINE_OK;
    }
    void disarm() { detail::check(trine_worker_disarm(get()), get()); }

private:
    static void hear(void *listener, const trine_event *told) noexcept {
        (*static_cast<std::function<void(const event &)> *>(listener))(
            {told->kind, told->service ? told->service : "", told->resource});
    }
    // Before the handle, which goes first.
    std::unique_ptr<std::function<void(const event &)>> listener_;
    std::unique_ptr<trine_worker, detail::close> handle_;
    bool drained_ = false;
};

// A director in a thread of this program; stopped when it is dropped.
class director {
public:
    explicit director(const std::string &bus = {}, const options &chosen = options()) {
        trine_director *made = nullptr;
        detail::check(trine_director_start(detail::name(bus), &chosen, &made), nullptr);
        handle_.reset(made);
    }

private:
    std::unique_ptr<trine_director, detail::close> handle_;
};

} // namespace trine

#endif // TRINE_HPP
