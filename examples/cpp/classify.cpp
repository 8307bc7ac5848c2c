// Classifies pictures with a file of dynexport: ONNX Runtime and the file's own metadata, no more.
//
//     classify MODEL.onnx PICTURE.ppm...
//
// prints a line a picture: its path, the class, the class's logit. Pictures are binary PPM files of
// 8 bits, so that this program needs no decoder; put that of your service in the place of read_ppm.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

constexpr int SIDE = 16384;  // of the largest picture that is taken, pixels

// 8 bits, rows from the top, red, green and blue of a pixel beside each other.
struct Picture {
  int width, height;
  std::vector<std::uint8_t> pixels;
};

// What the file says of itself: the entries dynexport.preprocessing and dynexport.batch.
struct Facts {
  int height, width;             // of the input, pixels
  std::vector<float> covered;    // what a picture just covers; empty: it is taken as it is
  bool warp;                     // it is stretched to that instead
  std::vector<float> mean, std;  // of each channel, on the scale from 0 to 1
  std::size_t smallest, usual;   // sizes of a batch
};

std::string entry(const Ort::Session& session, const char* key) {
  Ort::AllocatorWithDefaultOptions allocator;
  auto value = session.GetModelMetadata().LookupCustomMetadataMapAllocated(key, allocator);
  if (!value) throw std::runtime_error(std::string("the file has no entry ") + key);
  return value.get();
}

// The number, or the list of numbers, behind a name of a JSON object; empty where there is null.
std::vector<float> numbers(const std::string& json, const std::string& name) {
  std::size_t place = json.find("\"" + name + "\":");
  if (place == std::string::npos) throw std::runtime_error("the metadata has no " + name);
  place = json.find_first_not_of(" ", place + name.size() + 3);
  bool list = json[place] == '[';
  std::size_t end = json.find_first_of(list ? "]" : ",}", place);
  std::string text = json.substr(place + list, end - place - list);
  std::vector<float> found;
  const char* at = text.c_str();
  for (char* next; *at != '\0'; at = *next == '\0' ? next : next + 1) {
    float number = std::strtof(at, &next);
    if (next == at) break;  // null
    found.push_back(number);
  }
  return found;
}

Facts read_facts(const Ort::Session& session) {
  std::string steps = entry(session, "dynexport.preprocessing");
  std::vector<float> size = numbers(steps, "img_size");
  Facts facts;
  facts.height = int(size.at(0));
  facts.width = int(size.back());
  facts.covered = numbers(steps, "resize");
  facts.warp = steps.find("\"warp\": true") != std::string::npos;
  facts.mean = numbers(steps, "mean");
  facts.std = numbers(steps, "std");
  // "8" for a file of one size, "1:8:64" for one that takes 1 to 64 and likes 8 best
  std::string batch = entry(session, "dynexport.batch");
  batch = batch.substr(1, batch.size() - 2);  // the quotes
  std::size_t colon = batch.find(':');
  facts.smallest = std::stoul(batch);
  facts.usual = colon == std::string::npos ? facts.smallest : std::stoul(batch.substr(colon + 1));
  return facts;
}

Picture read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string kind;
  int width = 0, height = 0, largest = 0;
  file >> kind >> width >> height >> largest;
  file.get();
  if (!file || kind != "P6" || largest != 255) throw std::runtime_error(path + " is no 8-bit PPM");
  if (width < 1 || height < 1 || width > SIDE || height > SIDE) {
    throw std::runtime_error(path + " is empty or too large");
  }
  Picture picture{width, height, std::vector<std::uint8_t>(std::size_t(width) * height * 3)};
  file.read(reinterpret_cast<char*>(picture.pixels.data()), std::streamsize(picture.pixels.size()));
  if (!file) throw std::runtime_error(path + " is cut short");
  return picture;
}

double bicubic(double x) {
  x = std::abs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

// One axis to another length: bicubic, and smoothed where it shrinks, as Pillow does it.
Picture resize_axis(const Picture& from, int length, bool across) {
  int old = across ? from.width : from.height;
  Picture to{across ? length : from.width, across ? from.height : length, {}};
  to.pixels.resize(std::size_t(to.width) * to.height * 3);
  double scale = double(old) / length, wide = std::max(scale, 1.0), reach = 2 * wide;
  for (int place = 0; place < length; ++place) {
    double centre = (place + 0.5) * scale;
    int first = std::max(0, int(centre - reach + 0.5));
    int last = std::min(old, int(centre + reach + 0.5));
    std::vector<double> weights;
    double total = 0;
    for (int at = first; at < last; ++at) {
      weights.push_back(bicubic((at - centre + 0.5) / wide));
      total += weights.back();
    }
    for (int line = 0; line < (across ? from.height : from.width); ++line) {
      for (int channel = 0; channel < 3; ++channel) {
        double sum = 0;
        for (int at = first; at < last; ++at) {
          int x = across ? at : line, y = across ? line : at;
          std::size_t index = (std::size_t(y) * from.width + x) * 3 + channel;
          sum += weights[at - first] * from.pixels[index];
        }
        int x = across ? place : line, y = across ? line : place;
        double value = std::min(255.0, std::max(0.0, std::floor(sum / total + 0.5)));
        to.pixels[(std::size_t(y) * to.width + x) * 3 + channel] = std::uint8_t(value);
      }
    }
  }
  return to;
}

// Resized, the centre of it, from 0 to 1, normalised; (3, height, width) behind `input`.
void prepare(const std::string& path, const Facts& facts, std::vector<float>& input) {
  Picture picture = read_ppm(path);
  if (!facts.covered.empty()) {
    int height = int(facts.covered[0]), width = int(facts.covered.back());
    if (facts.warp) {
      // as large as it says, whatever the picture's shape
    } else if (double(height) * picture.width >= double(width) * picture.height) {
      width = int(double(height) * picture.width / picture.height);
    } else {
      height = int(double(width) * picture.height / picture.width);
    }
    picture = resize_axis(resize_axis(picture, width, true), height, false);
  } else if (picture.width != facts.width || picture.height != facts.height) {
    throw std::runtime_error(path + " has not the size that this model takes");
  }
  // halves go to the even number, as nearbyint does and Python's round
  int left = int(std::nearbyint((picture.width - facts.width) / 2.0));
  int top = int(std::nearbyint((picture.height - facts.height) / 2.0));
  for (int channel = 0; channel < 3; ++channel) {
    for (int y = top; y < top + facts.height; ++y) {
      for (int x = left; x < left + facts.width; ++x) {
        std::size_t index = (std::size_t(y) * picture.width + x) * 3 + channel;
        float value = float(picture.pixels[index]) / 255.0f;
        input.push_back((value - facts.mean.at(channel)) / facts.std.at(channel));
      }
    }
  }
}

int main(int count, char** words) try {
  if (count < 3) throw std::runtime_error("usage: classify MODEL.onnx PICTURE.ppm...");
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "classify");
  Ort::Session session(env, words[1], Ort::SessionOptions());
  Facts facts = read_facts(session);
  std::vector<std::string> paths(words + 2, words + count);
  auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const char* inputs[] = {"images"};
  const char* outputs[] = {"logits"};
  for (std::size_t first = 0; first < paths.size(); first += facts.usual) {
    std::size_t given = std::min(facts.usual, paths.size() - first);
    std::size_t batch = std::max(given, facts.smallest);
    std::vector<float> images;
    for (std::size_t image = 0; image < batch; ++image) {
      // the last batch of a file of one size is filled up with its last picture
      prepare(paths[first + std::min(image, given - 1)], facts, images);
    }
    std::int64_t shape[] = {std::int64_t(batch), 3, facts.height, facts.width};
    auto tensor =
        Ort::Value::CreateTensor<float>(memory, images.data(), images.size(), shape, 4);
    auto answers = session.Run(Ort::RunOptions(), inputs, &tensor, 1, outputs, 1);
    std::size_t classes = answers[0].GetTensorTypeAndShapeInfo().GetElementCount() / batch;
    const float* logits = answers[0].GetTensorData<float>();
    for (std::size_t image = 0; image < given; ++image, logits += classes) {
      const float* best = std::max_element(logits, logits + classes);
      std::cout << paths[first + image] << ' ' << best - logits << ' ' << *best << '\n';
    }
  }
  return 0;
} catch (const std::exception& error) {
  std::cerr << "error: " << error.what() << '\n';
  return 1;
}
