/* Answers in place of the TensorRT provider, which onnxruntime asks for its kernels too: it has none. */
#include <stddef.h>

static struct object { void *table; void *rest[63]; } provider, factory, execution;
static void *table[64];
/* An empty std::map whose header is its own first and last node. */
static void *registry[64];

/* Every virtual function of all three: what returns an object has a place for it as its first
   argument and the object itself as its second, what returns nothing has the object first. */
static void *answer(void *first, void *second) {
  void **out = first;
  if (first == &provider || first == &factory || first == &execution) return NULL;
  if (second == &provider) out[0] = &factory, out[1] = NULL;
  if (second == &factory) out[0] = &execution;
  if (second == &execution) out[0] = registry, out[1] = NULL;
  return first;
}

void *GetProvider(void) {
  for (int i = 0; i < 64; i++) table[i] = answer;
  registry[3] = registry[4] = &registry[1];
  provider.table = factory.table = execution.table = table;
  return &provider;
}
