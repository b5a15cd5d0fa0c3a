// Pictures as networks see them in tests, against stock Darknet.
#include <doctest/doctest.h>

#include <cstring>
#include <opencv2/core.hpp>
#include <vector>

#include "data/image_file.hpp"
#include "tests/support/oracle.hpp"

TEST_CASE("letterbox makes upstream's pixels, to the bit") {
  struct Case {
    int picture_width, picture_height, width, height;
  };
  // Not 9x1 on 16x16: there upstream divides 0 by 0.
  for (const Case& c : std::initializer_list<Case>{Case{64, 48, 32, 32}, Case{31, 77, 96, 64}, Case{200, 200, 52, 52}, Case{5, 3, 64, 32},
                                                   Case{1, 9, 16, 16}, Case{640, 427, 416, 416}}) {
    CAPTURE(c.picture_width);
    CAPTURE(c.picture_height);
    cv::Mat picture(c.picture_height, c.picture_width, CV_8UC3);
    cv::RNG rng(7);
    rng.fill(picture, cv::RNG::UNIFORM, 0, 256);
    image whole = make_image(c.picture_width, c.picture_height, 3);
    for (int k = 0; k < 3; ++k)
      for (int y = 0; y < c.picture_height; ++y)
        for (int x = 0; x < c.picture_width; ++x)
          whole.data[(k * c.picture_height + y) * c.picture_width + x] = static_cast<float>(picture.at<cv::Vec3b>(y, x)[2 - k] / 255.);
    image wanted = stock_letterbox_image(whole, c.width, c.height);
    std::vector<float> got(static_cast<std::size_t>(3) * c.width * c.height);
    tessera::data::letterbox(picture, c.width, c.height, got.data());
    CHECK(std::memcmp(got.data(), wanted.data, got.size() * sizeof(float)) == 0);
    stock_free_image(whole), stock_free_image(wanted);
  }
}
