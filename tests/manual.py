"""Every @knet function of the manual, as it prints them, by its lessons; for the tests of all stages."""

LINREG = """
@knet function linreg(x)
w = par(dims=(1,13), init=Gaussian(0,0.1))
b = par(dims=(1,1), init=Constant(0))
return w * x .+ b
end
"""

LINREG2 = """
@knet function linreg2(x; inputs=13, outputs=1)
w = par(dims=(outputs,inputs), init=Gaussian(0,0.1))
b = par(dims=(outputs,1), init=Constant(0))
return w * x .+ b
end
"""

SOFTMAX = """
@knet function linreg3(x; out=1)
w = par(dims=(out,0), init=Gaussian(0,0.1))
b = par(dims=(out,1), init=Constant(0))
return w * x .+ b
end

@knet function softmax(x; out=10)
z = linreg3(x; out=out)
return soft(z)
end
"""

LENET1 = """
@knet function lenet1(x) # dims=(28,28,1,N)
w1 = par(init=Xavier(), dims=(5,5,1,20))
c1 = conv(w1,x) # dims=(24,24,20,N)
b1 = par(init=Constant(0),dims=(1,1,20,1))
a1 = add(b1,c1)
r1 = relu(a1)
p1 = pool(r1; window=2) # dims=(12,12,20,N)

w2 = par(init=Xavier(), dims=(5,5,20,50))
c2 = conv(w2,p1) # dims=(8,8,50,N)
b2 = par(init=Constant(0),dims=(1,1,50,1))
a2 = add(b2,c2)
r2 = relu(a2)
p2 = pool(r2; window=2) # dims=(4,4,50,N)

w3 = par(init=Xavier(), dims=(500,800))
d3 = dot(w3,p2) # dims=(500,N)
b3 = par(init=Constant(0),dims=(500,1))
a3 = add(b3,d3)
r3 = relu(a3)

w4 = par(init=Xavier(), dims=(10,500))
d4 = dot(w4,r3) # dims=(10,N)
b4 = par(init=Constant(0),dims=(10,1))
a4 = add(b4,d4)
return soft(a4) # dims=(10,N)
end
"""

LENET_LAYERS = """
@knet function generic_layer(x; f1=:dot, f2=:relu, wdims=(), bdims=(), winit=Xavier(), binit=Constant(0))
w = par(init=winit, dims=wdims)
y = f1(w,x)
b = par(init=binit, dims=bdims)
z = add(b,y)
return f2(z)
end

@knet function conv_pool_layer(x; cwindow=0, cinput=0, coutput=0, pwindow=0)
y = generic_layer(x; f1=:conv, f2=:relu, wdims=(cwindow,cwindow,cinput,coutput), bdims=(1,1,coutput,1))
return pool(y; window=pwindow)
end

@knet function relu_layer(x; input=0, output=0)
return generic_layer(x; f1=:dot, f2=:relu, wdims=(output,input), bdims=(output,1))
end

@knet function softmax_layer(x; input=0, output=0)
return generic_layer(x; f1=:dot, f2=:soft, wdims=(output,input), bdims=(output,1))
end

@knet function lenet3(x)
a = conv_pool_layer(x; cwindow=5, cinput=1, coutput=20, pwindow=2)
b = conv_pool_layer(a; cwindow=5, cinput=20, coutput=50, pwindow=2)
c = relu_layer(b; input=800, output=500)
return softmax_layer(c; input=500, output=10)
end

@knet function lenet4(x; cwin1=5, cout1=20, pwin1=2, cwin2=5, cout2=50, pwin2=2, hidden=500, nclass=10)
a = conv_pool_layer(x; cwindow=cwin1, coutput=cout1, pwindow=pwin1)
b = conv_pool_layer(a; cwindow=cwin2, coutput=cout2, pwindow=pwin2)
c = relu_layer(b; output=hidden)
return softmax_layer(c; output=nclass)
end

@knet function drop(x; pdrop=0, o...)
if dropout
return x .* rnd(init=Bernoulli(1-pdrop, 1/(1-pdrop)))
else
return x
end
end

@knet function lenet5(x; pdrop=0.5, cwin1=5, cout1=20, pwin1=2, cwin2=5, cout2=50, pwin2=2, hidden=500, nclass=10)
a = conv_pool_layer(x; cwindow=cwin1, coutput=cout1, pwindow=pwin1)
b = conv_pool_layer(a; cwindow=cwin2, coutput=cout2, pwindow=pwin2)
bdrop = drop(b; pdrop=pdrop)
c = relu_layer(bdrop; output=hidden)
return softmax_layer(c; output=nclass)
end
"""

RNN1 = """
@knet function rnn1(x; hsize=100, xsize=50)
a = par(init=Xavier(), dims=(hsize, xsize))
b = par(init=Xavier(), dims=(hsize, hsize))
c = par(init=Constant(0), dims=(hsize, 1))
d = a * x .+ b * h .+ c
h = relu(d)
end
"""

CHARLM = """
@knet function charlm(x; embedding=0, hidden=0, pdrop=0, nchar=0)
a = wdot(x; out=embedding)
b = lstm(a; out=hidden)
c = drop(b; pdrop=pdrop)
return wbf(c; out=nchar, f=:soft)
end

@knet function lstmdrop(a; pdrop=0, hidden=0)
b = lstm(a; out=hidden)
return drop(b; pdrop=pdrop)
end

@knet function charlm2(x; nlayer=0, embedding=0, hidden=0, pdrop=0, nchar=0)
a = wdot(x; out=embedding)
c = repeat(a; frepeat=:lstmdrop, nrepeat=nlayer, hidden=hidden, pdrop=pdrop)
return wbf(c; out=nchar, f=:soft)
end
"""

CONV_POOL = """
@knet function conv_pool_layer(x)
w = par(init=Xavier(), dims=(5,5,1,20))
c = conv(w,x)
b = par(init=Constant(0), dims=(1,1,20,1))
a = add(b,c)
r = relu(a)
return pool(r; window=2)
end
"""

LENET2 = """
@knet function conv_pool_layer(x; cwindow=0, cinput=0, coutput=0, pwindow=0)
w = par(init=Xavier(), dims=(cwindow,cwindow,cinput,coutput))
c = conv(w,x)
b = par(init=Constant(0), dims=(1,1,coutput,1))
a = add(b,c)
r = relu(a)
return pool(r; window=pwindow)
end
@knet function relu_layer(x; input=0, output=0)
return wbf(x; out=output)
end
@knet function softmax_layer(x; input=0, output=0)
return wbf(x; out=output, f=:soft)
end
@knet function lenet2(x)
a = conv_pool_layer(x; pwindow=2)
b = conv_pool_layer(a; pwindow=2)
c = relu_layer(b)
return softmax_layer(c)
end
"""

LSTM = """
@knet function lstm(x; fbias=1, o...)
input = wbf2(x,h; o..., f=:sigm)
forget = wbf2(x,h; o..., f=:sigm, binit=Constant(fbias))
output = wbf2(x,h; o..., f=:sigm)
newmem = wbf2(x,h; o..., f=:tanh)
cell = input .* newmem + cell .* forget
h = tanh(cell) .* output
return h
end
"""

PERCEPTRONS = """
@knet function mnist_softmax(x)
w = par(init=Gaussian(0,0.001), dims=(10,28*28))
b = par(init=Constant(0), dims=(10,1))
y = w * x + b
return soft(y)
end
@knet function mnist_softmax_2(x)
w1 = par(init=Gaussian(0,0.001), dims=(100,28*28))
b1 = par(init=Constant(0), dims=(100,1))
y1 = w1 * x + b1
w2 = par(init=Gaussian(0,0.001), dims=(10,100))
b2 = par(init=Constant(0), dims=(10,1))
return soft(w2 * y1 + b2)
end
@knet function mnist_mlp(x)
w1 = par(init=Gaussian(0,0.001), dims=(100,28*28))
b1 = par(init=Constant(0), dims=(100,1))
y1 = relu(w1 * x + b1)
w2 = par(init=Gaussian(0,0.001), dims=(10,100))
b2 = par(init=Constant(0), dims=(10,1))
return soft(w2 * y1 + b2)
end
@knet function mlp3a(x0)
w1 = par(init=Gaussian(0,0.001), dims=(100,28*28))
b1 = par(init=Constant(0), dims=(100,1))
x1 = relu(w1 * x0 + b1)
w2 = par(init=Gaussian(0,0.001), dims=(100,100))
b2 = par(init=Constant(0), dims=(100,1))
x2 = relu(w2 * x1 + b2)
w3 = par(init=Gaussian(0,0.001), dims=(10,100))
b3 = par(init=Constant(0), dims=(10,1))
return soft(w3 * x2 + b3)
end
@knet function mlp3b(x0)
x1 = relu_layer1(x0)
x2 = relu_layer2(x1)
return soft_layer3(x2)
end
@knet function relu_layer1(x)
w = par(init=Gaussian(0,0.001), dims=(100,28*28))
b = par(init=Constant(0), dims=(100,1))
return relu(w * x + b)
end
@knet function relu_layer2(x)
w = par(init=Gaussian(0,0.001), dims=(100,100))
b = par(init=Constant(0), dims=(100,1))
return relu(w * x + b)
end
@knet function soft_layer3(x)
w = par(init=Gaussian(0,0.001), dims=(10,100))
b = par(init=Constant(0), dims=(10,1))
return soft(w * x + b)
end
"""

PERCEPTRONS_BY_KEYWORDS = """
@knet function mlp3c(x0)
x1 = wbf(x0; f=:relu, inputs=28*28, outputs=100)
x2 = wbf(x1; f=:relu, inputs=100, outputs=100)
return wbf(x2; f=:soft, inputs=100, outputs=10)
end
@knet function wbf(x; f=:relu, inputs=0, outputs=0, winit=Gaussian(0,0.001), binit=Constant(0))
w = par(init=winit, dims=(outputs,inputs))
b = par(init=binit, dims=(outputs,1))
return f(w * x + b)
end
"""

PERCEPTRONS_BY_SIZES = """
@knet function mlp3d(x0)
x1 = wbf(x0; f=:relu, out=100)
x2 = wbf(x1; f=:relu, out=100)
return wbf(x2; f=:soft, out=10)
end
@knet function mlp3e(x; o...)
h = repeat(x; frepeat=:wbf, nrepeat=2, f=:relu, out=100, o...)
return wbf(h; f=:soft, out=10)
end
@knet function wbf(x; f=:relu, out=0, winit=Gaussian(0,0.001), binit=Constant(0))
w = par(init=winit, dims=(out,0))
b = par(init=binit, dims=(out,1))
return f(w * x + b)
end
"""

CONVOLUTIONS = """
@knet function convtest1(x)
w = par(init=reshape([1.0,2.0,3.0], (3,1,1,1)))
y = conv(w, x)
return y
end
@knet function convtest2(x)
w = par(init=reshape([1.0,2.0,3.0], (3,1,1,1)))
y = conv(w, x; padding=(1,0))
return y
end
@knet function convtest3(x)
w = par(init=reshape([1.0,2.0,3.0], (3,1,1,1)))
y = conv(w, x; padding=(1,0), stride=3)
return y
end
@knet function convtest4(x)
w = par(init=reshape([1.0:4.0...], (2,2,1,1)))
y = conv(w, x)
return y
end
@knet function pooltest1(x)
y = pool(x)
return y
end
@knet function pooltest2(x)
y = pool(x; window=3)
return y
end
@knet function pooltest3(x)
y = pool(x; padding=(1,0))
return y
end
"""

LESSONS = {
    "regression": LINREG + LINREG2 + SOFTMAX,
    "lenet by primitives": LENET1 + CONV_POOL,
    "lenet by layers": LENET2,
    "lenet by a generic layer": LENET_LAYERS,
    "recurrent": RNN1 + LSTM + CHARLM,
    "perceptrons": PERCEPTRONS,
    "perceptrons with keywords": PERCEPTRONS_BY_KEYWORDS,
    "perceptrons with size inference and repeat": PERCEPTRONS_BY_SIZES,
    "convolution and pooling": CONVOLUTIONS,
}
"""The definitions that stand in one source: some lessons define one name anew."""
