/* What a model needs of a microcontroller, see footprint.py: bytes that deepnmf_create takes, depth of the stack below it and
 * below deepnmf_process, instructions of a frame of 16 ms at 16 kHz (-1 where they are not counted), and a sum of the output.
 * With BARE nothing is printed: what is linked is what a product needs. */
#include "deepnmf.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { AREA = 24576, HOP = 256, HOPS = 100, MARK = 0xA5 };

#ifdef __arm__   /* Cortex-M7: the FPU on, then newlib's start. SysTick counts 25 MHz, with -icount shift=0 every 40th instruction. */
extern void _start(void);

static void reset(void)
{
    *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20;
    __asm volatile("dsb\nisb");
    *(volatile uint32_t *)0xE000E014 = 0xFFFFFF;
    *(volatile uint32_t *)0xE000E010 = 5;
    _start();
}

__attribute__((section(".vectors"))) const void *const vectors[4] = {(void *)0x20300000, (void *)reset, (void *)reset, (void *)reset};

static uint32_t ticks(void)
{
    return 0xFFFFFF - *(volatile uint32_t *)0xE000E018;
}
#else
static uint32_t ticks(void)
{
    return 0;
}
#endif

#ifndef BARE
static size_t asked;

void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size)
{
    if (!asked) asked = count * size;
    return __real_calloc(count, size);
}
#endif

/* Called twice from one place: leaves marks, then counts from the top what is no mark any more. */
static __attribute__((noinline)) size_t stack(int look)
{
    volatile unsigned char area[AREA];
    size_t k;
    if (!look)
        for (k = 0; k < AREA; k++) area[k] = MARK;
    for (k = 0; look && k < AREA && area[k] == MARK;) k++;
    return look ? AREA - k : 0;
}

int main(void)
{
    static float x[HOP];
    deepnmf *d;
    unsigned seed = 1;
    size_t create, process;
    uint32_t begin, used = 0;
    double sum = 0;
    int k, n;
    stack(0);
    d = deepnmf_create(16000, 1, INFINITY, 1);
    create = stack(1);
    if (!d) return 1;
    stack(0);
    for (n = 0; n < HOPS; n++) {
        for (k = 0; k < HOP; k++) {
            seed = seed * 1664525u + 1013904223u;
            x[k] = (float)((int)seed >> 8) / (1 << 23) * .1f;
        }
        begin = ticks();
        deepnmf_process(d, x, x, HOP, 1, 1);
        used += (ticks() - begin) & 0xFFFFFF;
        for (k = 0; k < HOP; k++) sum += fabsf(x[k]);
    }
    process = stack(1);
#ifdef BARE
    return (int)(sum + create + process + used);
#else
    printf("%lu %lu %lu %ld %.6g\n", (unsigned long)asked, (unsigned long)create, (unsigned long)process,
           used ? (long)((uint64_t)used * 40 / HOPS) : -1, sum);
    return 0;
#endif
}
