/* Remove the noise from speech: the network of deepnmf_model.h with its front end, in C99 that is also valid C++.
 *
 *     deepnmf *d = deepnmf_create(48000, 2, INFINITY, 1);
 *     deepnmf_process(d, input, output, frames, 2, 1);    (repeatedly, for interleaved stereo)
 *     deepnmf_destroy(d);
 *
 * Only deepnmf_create allocates memory, once. Objects share nothing that changes, so each may be used by a thread of
 * its own.
 */
#ifndef DEEPNMF_H
#define DEEPNMF_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct deepnmf deepnmf;

/* Start a recording of 1 to 64 channels, which share one mask, at 1000 to 768000 Hz. No frequency is attenuated by more
 * than max_attenuation_db >= 0 (INFINITY: no limit). The output is mix times the enhanced sound plus 1 - mix times the
 * input, with mix from 0 to 1. Returns NULL for other values, and if there is too little memory. */
deepnmf *deepnmf_create(int rate_hz, int channels, float max_attenuation_db, float mix);

/* Read any number of frames (samples of all channels) and write as many, which lag behind by deepnmf_latency frames.
 * Sample t of channel c is at [t * frame_stride + c * channel_stride]: the strides are (1, frames) for one channel
 * after the other, and (channels, 1) for interleaved samples. The output may be the input. Full scale is 1; a sample
 * that is not finite, or whose modulus exceeds 1e15, counts as zero. */
void deepnmf_process(
    deepnmf *d, const float *input, float *output, size_t frames, size_t frame_stride, size_t channel_stride);

/* Return the frames by which the output lags behind the input. Feed as many zeros after a recording to get its end. */
int deepnmf_latency(const deepnmf *d);

void deepnmf_destroy(deepnmf *d);

#ifdef __cplusplus
}
#endif

#endif
