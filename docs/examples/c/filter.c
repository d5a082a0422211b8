/* Remove the noise from a WAV file of 16-bit samples:
 *
 *     deepnmf export base --format c -o denoise/
 *     cc -O3 -Idenoise filter.c denoise/deepnmf.c -lm -o filter
 *     ./filter noisy.wav clean.wav
 */
#include "deepnmf.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FRAMES = 1024, MOST_CHANNELS = 64 };

static unsigned number(const unsigned char *bytes, int count)
{
    return count ? bytes[0] | number(bytes + 1, count - 1) << 8 : 0;
}

static void fail(const char *message)
{
    fprintf(stderr, "Error: %s\n", message);
    exit(1);
}

int main(int count, char **names)
{
    static unsigned char head[1 << 16], chunk[8], bytes[2 * FRAMES * MOST_CHANNELS];
    static float samples[FRAMES * MOST_CHANNELS];
    FILE *in = count == 3 ? fopen(names[1], "rb") : NULL, *out = in ? fopen(names[2], "wb") : NULL;
    size_t size = 12, channels = 0, skip, left, given, i;
    deepnmf *d = NULL;

    if (!out) fail("expected names of a file to read and of one to write");
    if (fread(head, 1, 12, in) != 12 || memcmp(head + 8, "WAVE", 4)) fail("expected a WAV file");
    for (;;) {   /* what stands before the samples is copied */
        if (fread(chunk, 1, 8, in) != 8) fail("found no samples");
        memcpy(head + size, chunk, 8);
        size += 8;
        left = number(chunk + 4, 4);
        if (!memcmp(chunk, "data", 4)) break;
        if (size + left + 8 > sizeof head || fread(head + size, 1, left, in) != left) fail("found a broken header");
        if (!memcmp(chunk, "fmt ", 4) && left >= 16) {
            channels = number(head + size + 2, 2);
            if (number(head + size + 14, 2) != 16) fail("expected samples of 16 bits");
            d = deepnmf_create((int)number(head + size + 4, 4), (int)channels, INFINITY, 1);
        }
        size += left;
    }
    if (!d) fail("expected 1 to 64 channels at 1000 to 768000 Hz");
    fwrite(head, 1, size, out);
    left /= 2 * channels;
    given = left * channels;
    skip = (size_t)deepnmf_latency(d);   /* what comes out first belongs to the time before the file */
    for (left += skip; left > 0;) {
        size_t frames = left < FRAMES ? left : FRAMES, wanted = frames * channels, first, found;
        found = fread(bytes, 2, wanted < given ? wanted : given, in);
        given -= found;
        for (i = 0; i < wanted; i++)   /* zeros behind the end push the last samples out */
            samples[i] = i < found ? (float)(int16_t)number(bytes + 2 * i, 2) / 32768 : 0;
        deepnmf_process(d, samples, samples, frames, channels, 1);
        for (i = 0; i < wanted; i++) {
            float x = rintf(32768 * samples[i]);
            int value = x > 32767 ? 32767 : x < -32768 ? -32768 : (int)x;
            bytes[2 * i] = (unsigned char)(value & 255);
            bytes[2 * i + 1] = (unsigned char)(value >> 8 & 255);
        }
        first = skip < frames ? skip : frames;
        skip -= first;
        left -= frames;
        fwrite(bytes + 2 * first * channels, 1, 2 * (frames - first) * channels, out);
    }
    deepnmf_destroy(d);
    if (fclose(out)) fail("the output could not be written");
    return 0;
}
