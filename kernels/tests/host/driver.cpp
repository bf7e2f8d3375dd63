// Carries out a plan with the kernels compiled as plain C++ (the compiler gets their sources by
// -include): driver REQUEST RESULT
//
// The request, in this machine's byte order: u32 whether threads and blocks run in descending
// order; u32 number of buffers, and of each u32 kind (0 input, 1 output, 2 scratch), u64 bytes, an
// input's bytes; u32 number of launches, and of each a name (u32 length, bytes), u32 grid, u32
// block, u32 number of arguments, each u32 kind and: 0 nothing (null); 1 u32 buffer, u64 first
// byte; 2 u32 length, bytes. The result: the outputs' bytes.
//
// Around buffers, and in outputs and scratch, all bits are set: NaN in every float type. A write
// around a buffer or to an input ends the program with an error.
using isfm_host::fail;

static FILE *request;

static void read(void *to, size_t bytes) {
  if (bytes && fread(to, bytes, 1, request) != 1) fail("the request is too short");
}

template <typename T>
static T read() {
  T value;
  read(&value, sizeof value);
  return value;
}

struct Buffer {
  static constexpr size_t GUARD = 256;
  u32 kind = read<u32>();
  size_t bytes = read<uint64_t>();
  std::vector<unsigned char> data = std::vector<unsigned char>(bytes + 2 * GUARD + 16, 0xff);
  std::vector<unsigned char> before;

  Buffer() {
    if (kind == 0) read(begin(), bytes);
    before = data;
  }

  unsigned char *begin() {
    const size_t at = (size_t)data.data() % 16;
    return data.data() + GUARD + (at ? 16 - at : 0);
  }

  void check() {
    const size_t from = begin() - data.data();
    for (size_t i = 0; i < data.size(); ++i)
      if ((kind == 0 || i < from || i >= from + bytes) && data[i] != before[i])
        fail("a write outside the outputs");
  }
};

int main(int argc, char **argv) {
  if (argc != 3) fail("needs REQUEST RESULT");
  request = fopen(argv[1], "rb");
  FILE *result = fopen(argv[2], "wb");
  if (!request || !result) fail("cannot open the files");
  const bool descending = read<u32>();
  std::vector<Buffer> buffers(read<u32>());
  for (u32 launches = read<u32>(); launches > 0; --launches) {
    std::string name(read<u32>(), ' ');
    read(&name[0], name.size());
    const u32 grid = read<u32>(), block = read<u32>();
    // Values are of eight bytes at least, so that pointers to them are aligned.
    std::vector<std::vector<uint64_t>> values(read<u32>());
    std::vector<void *> args;
    for (auto &value : values) {
      const u32 kind = read<u32>();
      value.resize(1);
      if (kind == 1) {
        const u32 buffer = read<u32>();
        value[0] = (uint64_t)(buffers.at(buffer).begin() + read<uint64_t>());
      } else if (kind == 2) {
        const u32 bytes = read<u32>();
        value.resize((bytes + 7) / 8);
        read(value.data(), bytes);
      }
      args.push_back(value.data());
    }
    isfm_host::launch(name, grid, block, args, descending);
    for (auto &buffer : buffers) buffer.check();
  }
  for (auto &buffer : buffers)
    if (buffer.kind == 1 && buffer.bytes && fwrite(buffer.begin(), buffer.bytes, 1, result) != 1)
      fail("cannot write the result");
  return fclose(result) == 0 ? 0 : 1;
}
