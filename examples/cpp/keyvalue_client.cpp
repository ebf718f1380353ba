// Fills a key-value service and asks it: keyvalue_client [BUS]
//
// Shows calls that nobody waits for, many calls in flight, a request built in place, and an answer that is an error.
#include <algorithm>
#include <cstring>
#include <iostream>
#include <string>
#include <trine.hpp>
#include <vector>

int main(int argc, char **argv) try {
    trine::client client(argc > 1 ? argv[1] : "");
    const auto get = client.route("store", "get"), put = client.route("store", "put");
    const auto key = [](int i) { return "key " + std::to_string(i) + '\0'; };
    const auto value = [](int i) { return "value " + std::to_string(i); };

    for (int i = 0; i < 1000; i++) client.post(put, key(i) + value(i));
    // A worker takes what it is given in order, so the gets come after the puts.
    int found = 0;
    for (int tens = 0; tens < 100; tens++) {
        std::vector<trine::pending> asked;
        for (int i = 0; i < 10; i++) asked.push_back(client.submit(get, key(tens * 10 + i)));
        for (int i = 0; i < 10; i++) found += asked[i].wait().text() == value(tens * 10 + i);
    }
    std::cout << found << " values found\n";

    auto loan = client.loan(put, 3000); // a large value, built where the worker reads it
    std::fill(loan.data().begin(), loan.data().end(), std::byte{'x'});
    std::memcpy(loan.data().data(), "large", 6);
    loan.submit().wait();
    std::cout << "a value of " << client.call(get, {"large", 6}).data().size() << " bytes\n";

    try {
        client.call(get, {"no such", 8});
    } catch (const trine::error &error) {
        std::cout << trine_status_name(error.status()) << ' ' << error.code() << ": " << error.message() << '\n';
        return found == 1000 && error.code() == 404 ? 0 : 1;
    }
    return 1;
} catch (const trine::error &error) {
    std::cerr << error.what() << '\n';
    return 1;
}
