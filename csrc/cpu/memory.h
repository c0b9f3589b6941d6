// Aligned scratch memory, and huge pages for large fresh outputs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace lkca::cpu {

// Uninitialised floats, 64-byte aligned.
class Scratch {
 public:
  explicit Scratch(int64_t floats);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  float* data() const { return data_; }

 private:
  float* data_;
};

// Whether memory of several pages is still without them, by one in its middle; false where the system does not tell.
bool without_pages(void* data, size_t bytes);

// Asks for huge pages behind a fresh allocation that has not been written yet, as LKCA_HUGE_PAGES says:
// auto (from 32 MiB on), 1 (from 4 MiB on) or 0. A hint: failure changes nothing.
void advise_huge_pages(void* data, size_t bytes);

// The switch: "auto", "0" or "1". Throws where LKCA_HUGE_PAGES is another word.
std::string huge_pages();

// Sets the switch and returns the previous setting. For tests and benchmarks.
std::string use_huge_pages(const std::string& setting);

}  // namespace lkca::cpu
