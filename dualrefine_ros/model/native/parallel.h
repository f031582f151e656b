// Work shared among threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

// PyTorch's own pool of threads, where it is OpenMP's and in sight: a second pool would fight it for the
// cores while its idle threads still spin.
extern "C" {
void GOMP_parallel(void (*)(void*), void*, unsigned, unsigned) __attribute__((weak));
int omp_get_thread_num() __attribute__((weak));
int omp_get_num_threads() __attribute__((weak));
}

// Runs work(first, last, thread) over 0 .. count.
template <typename Work>
void parallel(int64_t count, int threads, Work work) {
  threads = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, count)));
  if (threads > 1 && GOMP_parallel && omp_get_thread_num && omp_get_num_threads) {
    struct Job {
      Work* work;
      int64_t count;
    } job{&work, count};
    const auto run = [](void* data) {
      const Job& j = *static_cast<Job*>(data);
      const int i = omp_get_thread_num(), n = omp_get_num_threads();
      (*j.work)(j.count * i / n, j.count * (i + 1) / n, i);
    };
    GOMP_parallel(run, &job, threads, 0);
    return;
  }
  std::vector<std::thread> pool;
  for (int i = 1; i < threads; ++i)
    pool.emplace_back([=] { work(count * i / threads, count * (i + 1) / threads, i); });
  work(0, count / threads, 0);
  for (auto& thread : pool) thread.join();
}
