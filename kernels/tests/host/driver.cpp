// Runs one kernel, compiled as plain C++, on the numbers in a file:
//   driver INPUT OUTPUT KERNEL gx gy gz bx by bz ARGUMENT...
// INPUT and OUTPUT are raw f32: the kernel's buffers one after another, in the order of its
// parameters. A write outside an output buffer ends the program with an error.
#include "haar.cu"
#include "silu.cu"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vector>

static void fail(const char *what) {
  fprintf(stderr, "driver: %s\n", what);
  exit(1);
}

static FILE *input, *output;

static std::vector<float> read_buffer(size_t n) {
  std::vector<float> data(n);
  if (fread(data.data(), sizeof(float), n, input) != n) fail("the input is too short");
  return data;
}

// An output between two guards. What a kernel leaves unwritten stays UNWRITTEN, which no test
// expects as a result.
class Output {
  static constexpr size_t GUARD = 64;
  static constexpr float UNWRITTEN = -1.2345e30f;
  std::vector<float> data;

 public:
  explicit Output(size_t n) : data(n + 2 * GUARD, UNWRITTEN) {}
  float *begin() { return data.data() + GUARD; }
  void write() {
    const size_t n = data.size() - 2 * GUARD;
    for (size_t i = 0; i < GUARD; ++i)
      if (data[i] != UNWRITTEN || data[GUARD + n + i] != UNWRITTEN)
        fail("a write outside the buffer");
    if (fwrite(begin(), sizeof(float), n, output) != n) fail("cannot write the output");
  }
};

int main(int argc, char **argv) {
  if (argc < 11) fail("too few arguments");
  input = fopen(argv[1], "rb");
  output = fopen(argv[2], "wb");
  if (!input || !output) fail("cannot open the files");
  const char *kernel = argv[3];
  std::vector<unsigned int> v;
  for (int i = 4; i < argc; ++i) v.push_back((unsigned int)strtoul(argv[i], nullptr, 10));
  const dim3 grid = {v[0], v[1], v[2]}, block = {v[3], v[4], v[5]};
  const auto is = [&](const char *name) { return strcmp(kernel, name) == 0; };

  if (is("haar_forward_f32") || is("haar_inverse_f32")) {
    if (v.size() != 10) fail("needs batch, height, width, channels");
    const unsigned int b = v[6], h = v[7], w = v[8], c = v[9];
    const size_t whole = (size_t)b * h * w * c, quarter = (size_t)b * (h / 2) * (w / 2) * c;
    if (is("haar_forward_f32")) {
      const auto x = read_buffer(whole);
      Output approx(quarter), details(3 * quarter);
      isfm_launch(grid, block, haar_forward_f32, x.data(), approx.begin(), details.begin(), b, h,
                  w, c);
      approx.write();
      details.write();
    } else {
      const auto approx = read_buffer(quarter), details = read_buffer(3 * quarter);
      Output x(whole);
      isfm_launch(grid, block, haar_inverse_f32, approx.data(), details.data(), x.begin(), b, h,
                  w, c);
      x.write();
    }
  } else {
    if (v.size() != 7) fail("needs the number of elements");
    const unsigned long long n = v[6];
    const auto x = read_buffer(n);
    Output first(n), second(n);
    if (is("silu_forward_f32")) {
      isfm_launch(grid, block, silu_forward_f32, x.data(), first.begin(), n);
    } else if (is("silu_backward_f32")) {
      const auto dy = read_buffer(n);
      isfm_launch(grid, block, silu_backward_f32, x.data(), dy.data(), first.begin(), n);
    } else if (is("silu_gate_forward_f32")) {
      const auto z = read_buffer(n);
      isfm_launch(grid, block, silu_gate_forward_f32, x.data(), z.data(), first.begin(), n);
    } else if (is("silu_gate_backward_f32")) {
      const auto z = read_buffer(n), dy = read_buffer(n);
      isfm_launch(grid, block, silu_gate_backward_f32, x.data(), z.data(), dy.data(),
                  first.begin(), second.begin(), n);
    } else {
      fail("no such kernel");
    }
    first.write();
    if (is("silu_gate_backward_f32")) second.write();
  }
  return fclose(output) == 0 ? 0 : 1;
}
