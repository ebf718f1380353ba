#include <iostream>
#include <trine.hpp>

int main(int argc, char **argv) try {
    trine::client client(argc > 1 ? argv[1] : "");
    const auto upper = client.route("text", "upper");
    std::cout << client.call(upper, "hello").text() << '\n';
} catch (const trine::error &error) {
    std::cerr << error.what() << '\n';
    return 1;
}
