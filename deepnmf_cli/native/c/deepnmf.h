/* Remove the noise from speech: the network of deepnmf_model.h with its front end, in C99 that is C++ too.
 *
 *     deepnmf *d = deepnmf_create(48000, 2, INFINITY, 1);
 *     deepnmf_process(d, input, output, frames, 2, 1);    (again and again, interleaved stereo)
 *     deepnmf_destroy(d);
 *
 * Only deepnmf_create allocates memory, once. Objects do not share anything that changes: each may be used by a thread of
 * its own.
 */
#ifndef DEEPNMF_H
#define DEEPNMF_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct deepnmf deepnmf;

/* Begin a recording of 1 to 64 channels, which share one mask, at 1000 to 768000 Hz. No frequency is attenuated by more
 * than max_attenuation_db >= 0 (INFINITY: no limit), and the output is mix, from 0 to 1, of the enhanced sound and 1 - mix
 * of the input. Returns NULL for other values, and where memory is short. */
deepnmf *deepnmf_create(int rate_hz, int channels, float max_attenuation_db, float mix);

/* Take any number of frames (samples of all channels), and write as many, which lag behind by deepnmf_latency frames.
 * Sample t of channel c is at [t * frame_stride + c * channel_stride]: strides are (1, frames) for one channel after the
 * other, and (channels, 1) for interleaved samples. Output may be input. Full scale is 1; a sample that is not finite, or
 * beyond 1e15, counts as zero. */
void deepnmf_process(
    deepnmf *d, const float *input, float *output, size_t frames, size_t frame_stride, size_t channel_stride);

/* Frames by which the output lags behind the input. At the end of a recording, feed as many zeros for the rest. */
int deepnmf_latency(const deepnmf *d);

void deepnmf_destroy(deepnmf *d);

#ifdef __cplusplus
}
#endif

#endif
