// Stock Darknet as the oracle. The build links upstream into every test program a second time with each function f
// renamed to stock_f; these copies are compiled from the same source but pass by none of the fork's seams.
// The plain names (parse_network_cfg, ...) are what `darknet` itself runs, seams included.
#pragma once

#include <darknet.h>

#include <memory>
#include <string>

extern "C" {
// Networks.
decltype(parse_network_cfg) stock_parse_network_cfg;
decltype(load_network) stock_load_network;
decltype(free_network) stock_free_network;
decltype(resize_network) stock_resize_network;
decltype(set_batch_network) stock_set_batch_network;
decltype(load_weights) stock_load_weights;
decltype(load_weights_upto) stock_load_weights_upto;
decltype(save_weights) stock_save_weights;
decltype(save_weights_upto) stock_save_weights_upto;
// Running them.
decltype(forward_network) stock_forward_network;
decltype(backward_network) stock_backward_network;
decltype(update_network) stock_update_network;
decltype(network_predict) stock_network_predict;
decltype(train_network) stock_train_network;
decltype(train_network_datum) stock_train_network_datum;
decltype(get_current_rate) stock_get_current_rate;
decltype(get_current_batch) stock_get_current_batch;
// Detections.
decltype(get_network_boxes) stock_get_network_boxes;
decltype(free_detections) stock_free_detections;
decltype(do_nms_sort) stock_do_nms_sort;
decltype(do_nms_obj) stock_do_nms_obj;
decltype(box_iou) stock_box_iou;
// Images and small helpers.
decltype(load_image_color) stock_load_image_color;
decltype(letterbox_image) stock_letterbox_image;
decltype(resize_image) stock_resize_image;
decltype(free_image) stock_free_image;
// Not in darknet.h.
void stock_gemm_cpu(int TA, int TB, int M, int N, int K, float ALPHA, float* A, int lda, float* B, int ldb, float BETA, float* C, int ldc);
void stock_im2col_cpu(float* image, int channels, int height, int width, int size, int stride, int pad, float* columns);
void stock_col2im_cpu(float* columns, int channels, int height, int width, int size, int stride, int pad, float* image);
}

namespace tessera::testing {

struct FreeStockNetwork {
  void operator()(network* net) const { stock_free_network(net); }
};
using StockNetwork = std::unique_ptr<network, FreeStockNetwork>;

// Parses the text of a cfg with stock Darknet (which exits the process on a cfg it cannot read). The weights are
// random: set them, or load a weights file, before comparing anything.
StockNetwork parse_stock_network(const std::string& cfg_text);

}  // namespace tessera::testing
