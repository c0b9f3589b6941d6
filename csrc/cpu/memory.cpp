#include "cpu/memory.h"

#include <torch/headeronly/util/Exception.h>

#include <atomic>
#include <cstdlib>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace lkca::cpu {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
// Above 32 MiB (DEFAULT_MMAP_THRESHOLD_MAX) glibc maps memory afresh unless it has a free block of the size; below, it
// mostly hands out memory whose pages are there already, and the advice costs more than it saves.
constexpr size_t kAlwaysFresh = size_t{32} << 20;

constexpr int kUnread = -1, kOff = 0, kOn = 1, kAuto = 2;
std::atomic<int> mode{kUnread};

const char* name_of(int m) { return m == kOff ? "0" : m == kOn ? "1" : "auto"; }

int parse(const std::string& setting) {
  if (setting == "0") return kOff;
  if (setting == "1") return kOn;
  STD_TORCH_CHECK(setting.empty() || setting == "auto", "LKCA_HUGE_PAGES: expected auto, 0 or 1, got '", setting, "'");
  return kAuto;
}

int current() {
  int m = mode.load(std::memory_order_relaxed);
  if (m == kUnread) {
    const char* setting = std::getenv("LKCA_HUGE_PAGES");
    m = parse(setting == nullptr ? "" : setting);
    mode.store(m, std::memory_order_relaxed);
  }
  return m;
}

}  // namespace

Scratch::Scratch(int64_t floats) : data_(nullptr) {
  const size_t bytes = (static_cast<size_t>(floats < 1 ? 1 : floats) * sizeof(float) + 63) / 64 * 64;
  data_ = static_cast<float*>(::operator new(bytes, std::align_val_t{64}));
}

Scratch::~Scratch() { ::operator delete(data_, std::align_val_t{64}); }

bool without_pages([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#ifdef __linux__
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto middle = (reinterpret_cast<uintptr_t>(data) + bytes / 2) / page * page;
  unsigned char present = 1;
  return mincore(reinterpret_cast<void*>(middle), page, &present) == 0 && (present & 1) == 0;
#else
  return false;
#endif
}

void advise_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const int m = current();
  if (m == kOff || bytes < (m == kOn ? 2 * kHugePage : kAlwaysFresh)) return;
  const auto begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) / kHugePage * kHugePage;
  // Rounded up: the system likes to end a mapping with a huge page. Where it does not, the rest of the advice holds.
  const auto end = (reinterpret_cast<uintptr_t>(data) + bytes + kHugePage - 1) / kHugePage * kHugePage;
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

std::string huge_pages() { return name_of(current()); }

std::string use_huge_pages(const std::string& setting) {
  const std::string before = huge_pages();
  mode.store(parse(setting), std::memory_order_relaxed);
  return before;
}

}  // namespace lkca::cpu
