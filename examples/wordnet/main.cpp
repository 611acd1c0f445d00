// wordnet: trains embeddings of a knowledge graph on parameter shards, in several processes.
//
// What makes a job of it (the command, its processes, batches, checkpoints, report) is the library training/;
// here is the model.
#include <cstdio>
#include <memory>

#include <troupe/kernels/blas.hpp>
#include <troupe/runtime/process.hpp>
#include <troupe/training/program.hpp>

#include "wordnet/wordnet_task.hpp"

int main(int argc, char** argv) {
  troupe::open_standard_descriptors();
  troupe::kernels::restart_with_better_blas(argv);
  troupe::training::Program program;
  program.name = "wordnet";
  program.about = "Trains embeddings of a knowledge graph on parameter shards, in several processes";
  program.make_task = [] { return std::make_unique<troupe::wordnet::WordnetTask>(); };
  program.defaults.throttles = {"worker-2=0.4"};
  program.defaults.compare_seconds = 4;
  program.defaults.out = "out/wordnet";
  return troupe::training::run_program(program, argc, argv);
}
